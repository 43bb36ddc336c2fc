-- Writes that were answered 200 and wait at their nodes, of one user: a hash with a field for each, "node number", and
-- in it "order state device". The state is w while it waits, s while it is sent, and t when a newer write has
-- taken its place.
--
-- A write is behind the older ones of another node that is heard of, but for those whose place it may take: of the
-- same device, not being sent, and if it needs nothing of them. Nobody waits for a node that isn't heard of. If that only
-- sleeps, what waits there must not be sent after a newer one that was: that is late, and is to be dropped.
local function ahead(turns, nodes, node, device, merges, order)
	local time = redis.call('TIME')
	local heard = tonumber(time[1]) * 1000 - 3000
	local behind, places, late = false, {}, {}
	local all = redis.call('HGETALL', turns)
	for i = 1, #all, 2 do
		local its = string.match(all[i], '^%x+')
		local at, state, of = string.match(all[i + 1], '^(%d+) (%a) (%x+)$')
		local older = at and state ~= 't' and its ~= node and (not order or tonumber(at) < order)
		local place = {all[i], at and at .. ' t ' .. of}
		if older and tonumber(redis.call('ZSCORE', nodes, its) or 0) < heard then
			if state == 'w' then
				late[#late + 1] = place
			end
		elseif older and state == 'w' and of == device and merges ~= '1' then
			places[#places + 1] = place
		elseif older then
			behind = true
		end
	end
	return behind, places, late
end

local function take(turns, places)
	for _, place in ipairs(places) do
		redis.call('HSET', turns, place[1], place[2])
	end
end
