-- One row per household that has bought anything up to the end of `$day`, a DATE. Reads
-- the view transactions.
--
-- The stamps are UTC: the data's own weeks begin on Mondays at 05:00 in winter and 04:00
-- in summer, which is midnight in New York. A day is a New York day, so that an evening's
-- shopping is not torn in two; the data covers 2017-01-01 to 2017-12-31.
--
-- Every product is in, also those that no model knows: which can be recommended is the
-- release's to say, and another release may say otherwise.
WITH
-- A line of quantity 0 is a coupon or was taken back. Two baskets of a day are one entry:
-- milk forgotten in the morning and fetched at noon was wanted once.
bought AS (
    SELECT DISTINCT
        household_id,
        product_id,
        timezone('America/New_York', timezone('UTC', transaction_timestamp))::DATE
            AS bought_on
    FROM transactions
    WHERE quantity > 0 AND bought_on <= $day::DATE
),
numbered AS (
    SELECT
        *,
        $day::DATE - bought_on AS age,
        row_number() OVER (
            PARTITION BY household_id ORDER BY bought_on DESC, product_id DESC
        ) AS place
    FROM bought
)

SELECT
    household_id,
    -- The last 512, oldest first: at the end of September two households in three have
    -- no more than that.
    list(product_id ORDER BY place DESC) FILTER (place <= 512) AS products,
    list(age::FLOAT ORDER BY place DESC) FILTER (place <= 512) AS days_ago,
    -- The seven days that end with `$day`, so that it means the same on every evening.
    coalesce(
        list(DISTINCT product_id ORDER BY product_id) FILTER (age < 7), []
    ) AS bought_this_week
FROM numbered
GROUP BY household_id
ORDER BY household_id
