-- What can't be had on the evening of `$day`, a DATE: products that no household has
-- bought within the 28 days before it. Reads the view transactions.
SELECT product_id AS item
FROM transactions
WHERE quantity > 0
GROUP BY product_id
HAVING max(
    timezone('America/New_York', timezone('UTC', transaction_timestamp))::DATE
) FILTER (
    timezone('America/New_York', timezone('UTC', transaction_timestamp))::DATE
        <= $day::DATE
) < $day::DATE - 28
