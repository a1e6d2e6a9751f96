-- What each household bought within the seven days after `$day`, an empty list for one that
-- bought nothing. Days, quantities and baskets are those of features.sql. Every product
-- counts, also those that the release can't recommend: it is the household that is asked.
WITH
bought AS (
    SELECT DISTINCT
        household_id,
        product_id,
        timezone('America/New_York', timezone('UTC', transaction_timestamp))::DATE
            AS bought_on
    FROM transactions
    WHERE quantity > 0 AND bought_on <= $day::DATE + 7
)

SELECT
    household_id,
    coalesce(
        list(DISTINCT product_id ORDER BY product_id) FILTER (bought_on > $day::DATE), []
    ) AS bought
FROM bought
GROUP BY household_id
-- Those of whom nothing was known on the evening have no prediction.
HAVING min(bought_on) <= $day::DATE
ORDER BY household_id
