-- SPDX-License-Identifier: Apache-2.0
-- ABORT: releases the hold and frees the key of a call that is certainly not in Kafka, if both are still its own and no earlier
-- call with this key may be there.
-- KEYS  w q [d]
-- ARGV  wallet_ttl id nonce (16 and 8 bytes)
-- Reply: 1 released, 0 not ours.
local id, m = ARGV[2], redis.pcall('GET', KEYS[2])
if type(m) ~= 'string' or #m ~= 41 or byte(m) ~= 80 or sub(m, 18, 25) ~= ARGV[3] then return 0 end
local value = read(KEYS[1])
local hold = value and find_hold(value, id, HEAD + 1)
if hold then
  local held = unpack('<i8', value, 35) - unpack('<i8', value, hold + 16)
  call('PSETEX', KEYS[1], ARGV[1], sub(value, 1, 34) .. pack('<i8', held) .. sub(value, 43, hold - 1) .. sub(value, hold + HOLD))
end
call('DEL', KEYS[2])
if KEYS[3] and redis.pcall('GET', KEYS[3]) == id then call('DEL', KEYS[3]) end
return 1
