-- Writes that were answered 200 and wait at their nodes, of one user: a hash with a field for each, "node number", and
-- in it "order state device". The state is w while it waits, s once it is sent, t when a newer write of the device has
-- taken its place, and l when it is late: a newer one was sent without it, so that it must not be sent any more.
--
-- A write is behind the older ones of another node that is heard of, but for those whose place it may take: of the
-- same device, not being sent, and if it needs nothing of them. Nobody waits for a node that isn't heard of: what
-- waits there is late, also if it was sent, which may have been in vain. Returned are those that it is behind, those whose places it
-- takes and those that are late, each with what it is once the write goes.
local function ahead(turns, nodes, node, device, merges, order)
	local time = redis.call('TIME')
	local heard = tonumber(time[1]) * 1000 - 3000
	local behind, places, late = {}, {}, {}
	local all = redis.call('HGETALL', turns)
	for i = 1, #all, 2 do
		local its = string.match(all[i], '^%x+')
		local at, state, of = string.match(all[i + 1], '^(%d+) ([ws]) (%x+)$')
		if at and its ~= node and (not order or tonumber(at) < order) then
			if tonumber(redis.call('ZSCORE', nodes, its) or 0) < heard then
				late[#late + 1] = {all[i], at .. ' l ' .. of}
			elseif state == 'w' and of == device and merges ~= '1' then
				places[#places + 1] = {all[i], at .. ' t ' .. of}
			else
				behind[#behind + 1] = {all[i], at .. ' l ' .. of}
			end
		end
	end
	return behind, places, late
end

local function take(turns, places)
	for _, place in ipairs(places) do
		redis.call('HSET', turns, place[1], place[2])
	end
end
