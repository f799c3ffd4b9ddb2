-- SPDX-License-Identifier: Apache-2.0
-- FORGET: deletes a wallet, holds included, if it is still the version that was looked at.
-- KEYS  w
-- ARGV  version i8
-- Reply: 1 deleted, 0 it is another one by now, or none.
local value = read(KEYS[1])
if not value or sub(value, 11, 18) ~= ARGV[1] then return 0 end
return call('DEL', KEYS[1])
