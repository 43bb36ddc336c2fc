-- Takes events from a budget and, if it is the write's turn and there were any, appends entries to the log.
--
-- KEYS: id, seq, log, nodes, turns, budget (the last or the last three may be missing)
-- ARGV: three of log.lua; interval, burst, most and debt of the budget (or ''); node, device, whether it merges ('1'), the number under
--       which it waited (or ''), and whether there is no other time ('1') of the write whose turn it may be (or
--       ''); then of each entry kind, node, write, subject, and the device of one that waits, and the key of its turns or, of
--       who gets full budgets, what ends the keys of theirs
--
-- Returns the events that were taken and the microseconds until there is one; -1 if it isn't the write's turn,
-- -2 if another has taken its place, and -3 if it is late. Times are in whole microseconds since 1970, which a double holds exactly.
local taken, places, late, passed = 0, {}, {}, {}
-- For how long the turns of a user are kept after the last that came or was asked for.
local kept = '86400000'
if ARGV[9] ~= '' then
	-- One that waited before the server lost that is the oldest. One that has just come is the newest.
	local field, order = ARGV[8] .. ' ' .. ARGV[11], ARGV[11] ~= '' and 0 or nil
	local waited = order and redis.call('HGET', KEYS[5], field)
	if waited then
		local at, state = string.match(waited, '^(%d+) (%a)')
		if state == 't' then
			return {-2, '0'}
		end
		if state == 'l' then
			return {-3, '0'}
		end
		order = tonumber(at)
		redis.call('PEXPIRE', KEYS[5], kept)
	end
	local older
	older, places, late = ahead(KEYS[5], KEYS[4], ARGV[8], ARGV[9], ARGV[10], order)
	-- One that has just come can take places when it waits itself: sent at once it may fail.
	local behind = #older > 0 or not order and #places > 0
	if behind and ARGV[12] ~= '1' then
		return {-1, '1000000'}
	end
	if ARGV[12] == '1' then
		passed = older
	end
	if waited then
		redis.call('HSET', KEYS[5], field, string.format('%.0f', order) .. ' s ' .. ARGV[9])
	end
end
if KEYS[6] then
	local interval, burst, most, debt = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
	local time = redis.call('TIME')
	local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

	-- A budget is the arrival time, the interval and burst that this means something under, whether somebody was
	-- told to wait, events that are owed, and the shortest interval: as in policy/budget.go, where it is explained.
	local b, text = {}, redis.call('GET', KEYS[6])
	for word in string.gmatch(text or '', '%S+') do
		b[#b + 1] = tonumber(word)
	end
	local tat, was, had = b[1] or now, b[2] or interval, b[3] or burst
	local told, owed, fastest = b[4] or 0, b[5] or 0, math.min(b[6] or was, interval)
	local changed = not text
	-- The clock of a server that has taken over may be behind. Nobody waits for it: a budget is used up
	-- at most, and that is kept.
	if tat > now + (had + 64) * was then
		tat, changed = now + had * was, true
	end
	owed = math.max(0, owed - math.max(0, now - tat) / fastest)
	if was ~= interval or had ~= burst then
		local used = math.max(0, tat - now) / was
		local all, beyond = used + owed, math.max(0, used - had)
		local moved = now + math.ceil(math.min(all, burst + beyond) * interval)
		if told == 1 then
			moved = math.min(moved, math.max(now, tat - (had - 1) * was) + (burst - 1) * interval)
		end
		tat, owed, changed = moved, math.max(0, all - math.max(0, moved - now) / interval), true
	end

	local wait = math.max(0, tat - (burst - 1) * interval - now)
	local from = math.max(tat, now)
	taken = math.min(math.floor((now + burst * interval - from) / interval), most)
	if debt > 0 then
		taken = most
	end
	if taken > 0 then
		tat, told, changed = from + taken * interval, 0, true
		if debt > 0 then
			tat = math.min(tat, now + (burst + debt) * interval)
		end
	else
		taken, changed, told = 0, changed or told == 0, 1
	end
	if changed then
		local ends = math.max(1, math.ceil((math.max(0, tat - now) + owed * fastest) / 1000))
		text = string.format('%.0f %.0f %.0f', tat, interval, burst)
		if told ~= 0 or owed ~= 0 or fastest ~= interval then
			text = text .. string.format(' %d %.9g %.0f', told, owed, fastest)
		end
		redis.call('SET', KEYS[6], text, 'PX', string.format('%.0f', ends))
	end
	if taken == 0 then
		return {0, string.format('%.0f', wait)}
	end
end

take(KEYS[5], places)
take(KEYS[5], late)
take(KEYS[5], passed)

for i = 13, #ARGV, 6 do
	local kind, node, write, device, turns = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 4], ARGV[i + 5]
	local waits = kind == 'w'
	if waits then
		-- What the user wrote last is no longer what they want.
		kind = 'a'
	end
	if waits and not redis.call('GET', turns .. ' ' .. node .. ' ' .. write) then
		local _, its = ahead(turns, KEYS[4], node, device, string.sub(device, 33), nil)
		take(turns, its)
		local order = redis.call('HINCRBY', turns, '#', 1)
		redis.call('HSET', turns, node .. ' ' .. write, string.format('%.0f', order) .. ' w ' .. string.sub(device, 1, 32))
		redis.call('PEXPIRE', turns, kept)
	end
	if kind == 'z' then
		for _, budget in ipairs({'w:', 'r:', 's:'}) do
			redis.call('PEXPIRE', string.gsub(KEYS[1], 'id$', budget .. turns), '0')
		end
	end
	if kind == 'd' then
		-- What says that it waits may come after what says that it doesn't: by a connection on which something was
		-- lost. Whatever its user writes at other nodes would be behind it.
		if redis.call('HDEL', turns, node .. ' ' .. write) == 0 then
			redis.call('SET', turns .. ' ' .. node .. ' ' .. write, '1', 'PX', '600000')
		end
	else
		local seq = redis.call('INCR', KEYS[2])
		redis.call('XADD', KEYS[3], 'MAXLEN', '~', '100000', '*', 's', string.format('%.0f', seq), 'k', kind, 'n', node, 'w', write, 'u', ARGV[i + 3])
	end
end
return {taken, '0'}
