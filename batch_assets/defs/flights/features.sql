-- One row per flight scheduled for `$day + 1`, with what was known at 22:00 New York
-- time on `$day`, a DATE. Reads the views flights and weather. The trailing window
-- needs 28 days, so the first whole one is for 2013-01-29.
--
-- Of tomorrow it uses the schedule alone. The data names the aircraft that flew, not the
-- one planned the evening before, and none for flights that were cancelled: so there is
-- nothing of the aircraft here.
--
-- There is no month, temperature or level of pressure: half a year of training can't
-- tell a season from a trend.
WITH
tomorrow AS (
    SELECT
        *,
        sched_dep_time // 100 AS hour,
        sched_dep_time // 100 * 60 + sched_dep_time % 100 AS due,
        count(*) OVER () AS day_flights,
        count(*) OVER (PARTITION BY origin, hour) AS origin_hour_flights,
        count(*) OVER (
            PARTITION BY origin ORDER BY due
            RANGE BETWEEN 180 PRECEDING AND 1 PRECEDING
        ) AS origin_flights_3h_before
    FROM flights
    WHERE date = $day::DATE + 1
),

-- Whole days only: a flight of `$day` itself may still be in the air at 22:00. Sums are
-- of integers, because a sum of floats depends on their order.
history AS MATERIALIZED (
    SELECT
        carrier, flight, origin, dest,
        sched_dep_time // 100 AS hour,
        (arr_delay > 15)::INTEGER AS late,
        -- So that a few very late ones do not make the mean.
        least(greatest(arr_delay, -30), 90)::INTEGER AS delay,
        avg(late) OVER () AS rate,
        avg(delay) OVER () AS mean_delay
    FROM flights
    WHERE date BETWEEN $day::DATE - 28 AND $day::DATE - 1
      AND arr_delay IS NOT NULL
),
overall AS (
    SELECT any_value(rate) AS late_share, any_value(mean_delay) AS delay FROM history
),

-- A share of few flights says little, so each group is given 20 more at the overall
-- rate. A group that never flew gets that rate itself, below.
by_carrier AS (
    SELECT
        carrier,
        (sum(late) + 20 * any_value(rate)) / (20 + count(*)) AS late_share
    FROM history
    GROUP BY carrier
),
by_origin AS (
    SELECT
        origin,
        (sum(late) + 20 * any_value(rate)) / (20 + count(*)) AS late_share
    FROM history
    GROUP BY origin
),
by_dest AS (
    SELECT
        dest,
        (sum(late) + 20 * any_value(rate)) / (20 + count(*)) AS late_share
    FROM history
    GROUP BY dest
),
by_origin_hour AS (
    SELECT
        origin, hour,
        (sum(late) + 20 * any_value(rate)) / (20 + count(*)) AS late_share
    FROM history
    GROUP BY origin, hour
),
by_carrier_hour AS (
    SELECT
        carrier, hour,
        (sum(late) + 20 * any_value(rate)) / (20 + count(*)) AS late_share
    FROM history
    GROUP BY carrier, hour
),
by_carrier_route AS (
    SELECT
        carrier, origin, dest,
        (sum(late) + 20 * any_value(rate)) / (20 + count(*)) AS late_share
    FROM history
    GROUP BY carrier, origin, dest
),
by_flight AS (
    SELECT
        carrier, flight,
        (sum(late) + 20 * any_value(rate)) / (20 + count(*)) AS late_share,
        (sum(delay) + 20 * any_value(mean_delay)) / (20 + count(*)) AS delay
    FROM history
    GROUP BY carrier, flight
),

-- A departure's moment is its scheduled time plus its delay: `dep_time` alone would put
-- a flight that left after midnight into the early morning. Late is who left so, and who
-- was due by 21:45 and hasn't left: the record of the evening can't tell the second from
-- the cancelled. Of whom it can't be said yet, nothing is.
today AS MATERIALIZED (
    SELECT
        carrier, origin, dest,
        sched_dep_time // 100 * 60 + sched_dep_time % 100 AS due,
        CASE
            WHEN due + dep_delay < 22 * 60 THEN (dep_delay > 15)::INTEGER
            WHEN due < 22 * 60 - 15 THEN 1
        END AS late,
        avg(late) OVER () AS rate
    FROM flights
    WHERE date = $day::DATE
),
today_overall AS (
    SELECT any_value(rate) AS late_share FROM today
),
today_by_origin AS (
    SELECT
        origin,
        avg(late) AS late_share,
        avg(late) FILTER (due >= 17 * 60) AS evening_late_share
    FROM today
    GROUP BY origin
),
today_by_carrier AS (
    SELECT
        carrier,
        (sum(late) + 10 * any_value(rate)) / (10 + count(late)) AS late_share
    FROM today
    GROUP BY carrier
),
today_by_dest AS (
    SELECT
        dest,
        (sum(late) + 10 * any_value(rate)) / (10 + count(late)) AS late_share
    FROM today
    GROUP BY dest
),

-- Hour 21's observation is the last before 22:00. Nulls are skipped, so "last" means
-- the last reported. Decimals, because a sum of floats depends on their order.
weather_today AS (
    SELECT
        origin,
        max(wind_speed) AS wind_max,
        max(wind_gust) AS gust_max,
        min(visib) AS visibility_min,
        sum(precip::DECIMAL(6, 2)) AS precip_sum,
        arg_max(pressure, time_hour) - arg_min(pressure, time_hour) AS pressure_change,
        arg_max(humid, time_hour) AS humidity_last
    FROM weather
    WHERE date = $day::DATE AND hour <= 21
    GROUP BY origin
)

SELECT
    format('{}{}-{}-{:04d}', t.carrier, t.flight, t.origin, t.sched_dep_time)
        AS flight_id,

    isodow(t.date)::SMALLINT AS weekday,
    t.hour::SMALLINT AS hour,
    t.distance::SMALLINT AS distance,
    t.day_flights::SMALLINT AS day_flights,
    t.origin_hour_flights::SMALLINT AS origin_hour_flights,
    t.origin_flights_3h_before::SMALLINT AS origin_flights_3h_before,

    o.late_share::FLOAT AS late_share,
    coalesce(c.late_share, o.late_share)::FLOAT AS carrier_late_share,
    coalesce(p.late_share, o.late_share)::FLOAT AS origin_late_share,
    coalesce(d.late_share, o.late_share)::FLOAT AS dest_late_share,
    coalesce(ph.late_share, o.late_share)::FLOAT AS origin_hour_late_share,
    coalesce(ch.late_share, o.late_share)::FLOAT AS carrier_hour_late_share,
    coalesce(cr.late_share, o.late_share)::FLOAT AS carrier_route_late_share,
    coalesce(f.late_share, o.late_share)::FLOAT AS flight_late_share,
    coalesce(f.delay, o.delay)::FLOAT AS flight_mean_delay,

    n.late_share::FLOAT AS today_late_share,
    np.late_share::FLOAT AS origin_today_late_share,
    np.evening_late_share::FLOAT AS origin_evening_late_share,
    coalesce(nc.late_share, n.late_share)::FLOAT AS carrier_today_late_share,
    coalesce(nd.late_share, n.late_share)::FLOAT AS dest_today_late_share,

    w.wind_max::FLOAT AS wind_max,
    w.gust_max::FLOAT AS gust_max,
    w.visibility_min::FLOAT AS visibility_min,
    w.precip_sum::FLOAT AS precip_sum,
    w.pressure_change::FLOAT AS pressure_change,
    w.humidity_last::FLOAT AS humidity_last
FROM tomorrow AS t
CROSS JOIN overall AS o
CROSS JOIN today_overall AS n
LEFT JOIN by_carrier AS c USING (carrier)
LEFT JOIN by_origin AS p USING (origin)
LEFT JOIN by_dest AS d USING (dest)
LEFT JOIN by_origin_hour AS ph USING (origin, hour)
LEFT JOIN by_carrier_hour AS ch USING (carrier, hour)
LEFT JOIN by_carrier_route AS cr USING (carrier, origin, dest)
LEFT JOIN by_flight AS f USING (carrier, flight)
LEFT JOIN today_by_origin AS np USING (origin)
LEFT JOIN today_by_carrier AS nc USING (carrier)
LEFT JOIN today_by_dest AS nd USING (dest)
LEFT JOIN weather_today AS w USING (origin)
