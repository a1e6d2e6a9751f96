-- What a household gets that has bought nothing yet: the products that most households
-- of its store have bought within the 28 days before the evening of `$day`, a DATE, and
-- for a store that too few shop at, and for none, the same of all stores. Reads the view
-- transactions.
--
-- Fifty, because not every one is in the release's catalogue.
WITH
bought AS (
    SELECT DISTINCT household_id, store_id, product_id
    FROM transactions
    WHERE quantity > 0
      AND timezone('America/New_York', timezone('UTC', transaction_timestamp))::DATE
          BETWEEN $day::DATE - 27 AND $day::DATE
),
placed AS (
    SELECT store_id::TEXT AS store_id, household_id, product_id FROM bought
    UNION ALL
    SELECT DISTINCT NULL, household_id, product_id FROM bought
),
households AS (
    SELECT store_id, count(DISTINCT household_id) AS households
    FROM placed
    GROUP BY store_id
    HAVING households >= 50 OR store_id IS NULL
),
counted AS (
    SELECT households.store_id, product_id, count(*) / any_value(households) AS share
    FROM households
    JOIN placed ON placed.store_id IS NOT DISTINCT FROM households.store_id
    GROUP BY households.store_id, product_id
),
numbered AS (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY store_id ORDER BY share DESC, product_id
        ) AS place
    FROM counted
)

SELECT
    store_id,
    list(product_id ORDER BY place) AS next_products,
    list(share ORDER BY place) AS next_products_scores
FROM numbered
WHERE place <= 50
GROUP BY store_id
ORDER BY store_id
