-- include establish
-- Note how many partitions an event name has, unless it is known; return the known number.
--
-- KEYS  1 key that holds the number  2 set of event names
-- ARGV  1 event name  2 number of partitions
return established(KEYS[1], KEYS[2], ARGV[1], ARGV[2])
