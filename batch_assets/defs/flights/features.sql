-- One row per flight scheduled for `$day + 1`, with what was known at 22:00 New York
-- time on `$day`, a DATE. Reads the views flights and weather. The trailing
-- window needs 28 days, so the first whole one is for 2013-01-29.
--
-- Of tomorrow it uses the schedule, the route and the aircraft only. The data names the
-- aircraft that flew, not the one planned the evening before, so there it knows a
-- little more than an airline would. A missing tail number would even tell that the
-- flight will be cancelled, so it counts as one more aircraft nobody knows.
--
-- There is no month, temperature or level of pressure: half a year of training can't
-- tell a season from a trend.
WITH
tomorrow AS (
    SELECT
        *,
        sched_dep_time // 100 AS hour,
        sched_dep_time % 100 AS minute,
        count(*) OVER (PARTITION BY origin, hour) AS origin_hour_flights
    FROM flights
    WHERE date = $day::DATE + 1
),

-- Whole days only: a flight of `$day` itself may still be in the air at 22:00.
history AS MATERIALIZED (
    SELECT
        carrier, flight, tailnum, origin, dest,
        sched_dep_time // 100 AS hour,
        (arr_delay > 15)::INTEGER AS late,
        avg(late) OVER () AS rate
    FROM flights
    WHERE date BETWEEN $day::DATE - 28 AND $day::DATE - 1
      AND arr_delay IS NOT NULL
),
overall AS (
    SELECT any_value(rate) AS late_share FROM history
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
by_route AS (
    SELECT
        origin, dest,
        (sum(late) + 20 * any_value(rate)) / (20 + count(*)) AS late_share
    FROM history
    GROUP BY origin, dest
),
by_origin_hour AS (
    SELECT
        origin, hour,
        (sum(late) + 20 * any_value(rate)) / (20 + count(*)) AS late_share
    FROM history
    GROUP BY origin, hour
),
by_flight AS (
    SELECT
        carrier, flight,
        (sum(late) + 20 * any_value(rate)) / (20 + count(*)) AS late_share
    FROM history
    GROUP BY carrier, flight
),
by_tail AS (
    SELECT
        tailnum,
        (sum(late) + 20 * any_value(rate)) / (20 + count(*)) AS late_share
    FROM history
    GROUP BY tailnum
),

-- A departure's moment is its scheduled time plus its delay: `dep_time` alone would put
-- a flight that left after midnight into the early morning.
today AS MATERIALIZED (
    SELECT
        carrier, origin, dep_delay,
        sched_dep_time // 100 * 60 + sched_dep_time % 100 AS due,
        coalesce(due + dep_delay < 22 * 60, false) AS gone
    FROM flights
    WHERE date = $day::DATE
),
today_by_origin AS (
    SELECT
        origin,
        avg(dep_delay) FILTER (gone) AS dep_delay,
        -- Late or cancelled: the record of the evening can't tell the two apart.
        avg((NOT gone)::INTEGER) FILTER (due < 22 * 60) AS not_departed
    FROM today
    GROUP BY origin
),
today_by_carrier AS (
    SELECT carrier, avg(dep_delay) FILTER (gone) AS dep_delay
    FROM today
    GROUP BY carrier
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

    t.carrier,
    t.origin,
    t.hour::SMALLINT AS hour,
    t.minute::SMALLINT AS minute,
    isodow(t.date)::SMALLINT AS weekday,
    t.distance::SMALLINT AS distance,
    t.origin_hour_flights::SMALLINT AS origin_hour_flights,

    o.late_share::FLOAT AS late_share,
    coalesce(c.late_share, o.late_share)::FLOAT AS carrier_late_share,
    coalesce(r.late_share, o.late_share)::FLOAT AS route_late_share,
    coalesce(h.late_share, o.late_share)::FLOAT AS origin_hour_late_share,
    coalesce(f.late_share, o.late_share)::FLOAT AS flight_late_share,
    coalesce(a.late_share, o.late_share)::FLOAT AS tail_late_share,

    ot.dep_delay::FLOAT AS origin_dep_delay,
    ct.dep_delay::FLOAT AS carrier_dep_delay,
    ot.not_departed::FLOAT AS origin_not_departed,

    w.wind_max::FLOAT AS wind_max,
    w.gust_max::FLOAT AS gust_max,
    w.visibility_min::FLOAT AS visibility_min,
    w.precip_sum::FLOAT AS precip_sum,
    w.pressure_change::FLOAT AS pressure_change,
    w.humidity_last::FLOAT AS humidity_last
FROM tomorrow AS t
CROSS JOIN overall AS o
LEFT JOIN by_carrier AS c USING (carrier)
LEFT JOIN by_route AS r USING (origin, dest)
LEFT JOIN by_origin_hour AS h USING (origin, hour)
LEFT JOIN by_flight AS f USING (carrier, flight)
LEFT JOIN by_tail AS a USING (tailnum)
LEFT JOIN today_by_origin AS ot USING (origin)
LEFT JOIN today_by_carrier AS ct USING (carrier)
LEFT JOIN weather_today AS w USING (origin)
