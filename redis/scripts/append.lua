-- Takes events from a budget and, if it is the write's turn and there were any, appends entries to the log.
--
-- KEYS: id, seq, log, nodes, turns, budget (the last or the last three may be missing)
-- ARGV: three of log.lua; interval, burst, most and debt of the budget (or ''); node, device, whether it merges ('1'), the number under
--       which it waited (or ''), and whether there is no other time ('1') of the write whose turn it may be (or
--       ''); then of each entry kind, node, write, subject, and the device of one that waits, and the key of its turns or, of
--       who gets full budgets, what ends the keys of theirs
--
-- Returns the events that were taken and the microseconds until there is one; -1 if it isn't the write's turn, and
-- -2 if another has taken its place. Times are in whole microseconds since 1970, which a double holds exactly.
local taken, places = 0, {}
if ARGV[9] ~= '' then
	-- One that waited before the server lost that is the oldest. One that has just come is the newest.
	local field, order = ARGV[8] .. ' ' .. ARGV[11], ARGV[11] ~= '' and 0 or nil
	local waited = order and redis.call('HGET', KEYS[5], field)
	if waited then
		local at, state = string.match(waited, '^(%d+) (%a)')
		if state == 't' then
			return {-2, '0'}
		end
		order = tonumber(at)
	end
	local behind
	behind, places = ahead(KEYS[5], KEYS[4], ARGV[8], ARGV[9], ARGV[10], order)
	if not order and #places > 0 then
		behind = true -- it can take their places when it waits itself: sent at once it may fail
	end
	if behind and ARGV[12] ~= '1' then
		return {-1, '1000000'}
	end
	if waited then
		redis.call('HSET', KEYS[5], field, string.format('%.0f', order) .. ' s ' .. ARGV[9])
	end
end
if KEYS[6] then
	local interval, burst, most, debt = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
	local time = redis.call('TIME')
	local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
	local tat = tonumber(redis.call('GET', KEYS[6]) or now)
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
			redis.call('SET', KEYS[6], string.format('%.0f', tat), 'PX', string.format('%.0f', math.ceil((tat - now) / 1000)))
		end
		return {0, string.format('%.0f', tat - (burst - 1) * interval - now)}
	end
	tat = tat + taken * interval
	if debt > 0 then
		tat = math.min(tat, now + (burst + debt) * interval)
	end
	redis.call('SET', KEYS[6], string.format('%.0f', tat), 'PX', string.format('%.0f', math.ceil((tat - now) / 1000)))
end

take(KEYS[5], places)

for i = 13, #ARGV, 6 do
	local kind, node, write, device, turns = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 4], ARGV[i + 5]
	if kind == 'w' then
		-- What the user wrote last is no longer what they want.
		kind = 'a'
		local _, its = ahead(turns, KEYS[4], node, device, string.sub(device, 33), nil)
		take(turns, its)
		local order = redis.call('HINCRBY', turns, '#', 1)
		redis.call('HSET', turns, node .. ' ' .. write, string.format('%.0f', order) .. ' w ' .. string.sub(device, 1, 32))
		redis.call('PEXPIRE', turns, '3600000')
	end
	if kind == 'z' then
		for _, budget in ipairs({'w:', 'r:', 's:'}) do
			redis.call('PEXPIRE', string.gsub(KEYS[1], 'id$', budget .. turns), '0')
		end
	end
	if kind == 'd' then
		redis.call('HDEL', turns, node .. ' ' .. write)
	else
		local seq = redis.call('INCR', KEYS[2])
		redis.call('XADD', KEYS[3], 'MAXLEN', '~', '100000', '*', 's', string.format('%.0f', seq), 'k', kind, 'n', node, 'w', write, 'u', ARGV[i + 3])
	end
end
return {taken, '0'}
