-- Whether the flights that were scheduled for `$day + 1` arrived more than 15 minutes
-- late. A flight that was cancelled or diverted has no arrival, so nobody knows. The
-- night after is early enough: the last arrive the morning after their day.
SELECT
    format('{}{}-{}-{:04d}', carrier, flight, origin, sched_dep_time) AS flight_id,
    arr_delay > 15 AS late
FROM flights
WHERE date = $day::DATE + 1
