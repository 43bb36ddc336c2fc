-- Takes events from a budget and, if there were any, appends entries to the log.
--
-- KEYS: id, seq, log, budget (or none)
-- ARGV: three of log.lua, interval, burst, most and debt of the budget (or ''), then of each entry kind, node, write,
--       subject
--
-- Returns the events that were taken and the microseconds until there is one. Times are in whole
-- microseconds since 1970, which a double holds exactly.
local taken = 0
if KEYS[4] then
	local interval, burst, most, debt = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
	local time = redis.call('TIME')
	local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
	local tat = tonumber(redis.call('GET', KEYS[4]) or now)
	-- The clock of a server that has taken over may be behind. Nobody waits for it: a budget is used up
	-- at most, and that is kept.
	local ahead = tat > now + (burst + 64) * interval
	if ahead then
		tat = now + burst * interval
	end
	if tat < now then
		tat = now
	end
	local left = math.floor((now + burst * interval - tat) / interval)
	taken = math.min(left, most)
	if debt > 0 then
		taken = most
	end
	if taken < 1 then
		if ahead then
			redis.call('SET', KEYS[4], string.format('%.0f', tat), 'PX', string.format('%.0f', math.ceil((tat - now) / 1000)))
		end
		return {0, string.format('%.0f', tat - (burst - 1) * interval - now)}
	end
	tat = tat + taken * interval
	if debt > 0 then
		tat = math.min(tat, now + (burst + debt) * interval)
	end
	redis.call('SET', KEYS[4], string.format('%.0f', tat), 'PX', string.format('%.0f', math.ceil((tat - now) / 1000)))
end

for i = 8, #ARGV, 4 do
	local seq = redis.call('INCR', KEYS[2])
	redis.call('XADD', KEYS[3], 'MAXLEN', '~', '100000', '*', 's', string.format('%.0f', seq), 'k', ARGV[i], 'n', ARGV[i + 1], 'w', ARGV[i + 2], 'u', ARGV[i + 3])
end
return {taken, '0'}
