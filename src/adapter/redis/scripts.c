/* SPDX-License-Identifier: Apache-2.0 */
/* The Lua scripts. Rules for all of them: keys are declared, time is Redis TIME, numbers are doubles below 2^53 and are
 * written with %d only (tostring would write 1e+15), every script may be repeated after a lost reply. What the keys
 * hold is written in gf/balance.h.
 *
 * RESERVE  KEYS w q [d]  ARGV rid fp amount price quantity nonce rate lease_ms hold_ttl_ms marker_ttl_ms wallet_ttl_ms
 *                        double_click_ms holds_max            d is given for keyless requests only; amount -1: lookup
 *          -> {answer, x, y}, answers as enum gf_reserved; x, y: price and quantity, wait ms, or what is available
 * ABORT    KEYS w q [d]  ARGV rid nonce                                      -> 1 released, 0 not ours
 * LOAD     KEYS w        ARGV ver balance status fresh_ms wallet_ttl_ms      -> 1 taken, 0 Redis is newer
 * PUBLISH  KEYS w        ARGV ver balance status fresh_ms wallet_ttl_ms rid* -> 1 taken, 0 not; ver -1: release only */
#include "scripts.h"

#define LUA_NOW                                                                                                        \
    "local t = redis.call('TIME')\n"                                                                                   \
    "local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"                                                              \
    "local function d(x) return string.format('%d', x) end\n"

/* A marker decides alone: what was answered is answered again, whatever the wallet looks like now. */
#define LUA_RESERVE_MARKER                                                                                             \
    "local rid, fp, amount = ARGV[1], ARGV[2], tonumber(ARGV[3])\n"                                                    \
    "local hold = 'h:' .. rid\n"                                                                                       \
    "local function marker(price, quantity)\n"                                                                         \
    "  redis.call('SET', KEYS[2], 'P ' .. fp .. ' ' .. price .. ' ' .. quantity .. ' ' ..\n"                           \
    "    d(now + ARGV[8]) .. ' ' .. ARGV[6], 'PX', ARGV[10])\n"                                                        \
    "end\n"                                                                                                            \
    "local m = redis.call('GET', KEYS[2])\n"                                                                           \
    "if m then\n"                                                                                                      \
    "  local state, mfp, price, quantity, lease, nonce =\n"                                                            \
    "    string.match(m, '^(%a) (%x+) (%d+) (%d+) (%d+) (%x+)$')\n"                                                    \
    "  if mfp ~= fp then return {3, 0, 0} end\n"                                                                       \
    "  if nonce == ARGV[6] then return {1, tonumber(price), tonumber(quantity)} end\n"                                 \
    "  if state == 'A' then return {2, tonumber(price), tonumber(quantity)} end\n"                                     \
    "  if tonumber(lease) > now then return {4, tonumber(lease) - now, 0} end\n" /* Take-over: the first call may be   \
                                                                                    in Kafka, so it goes on with the   \
                                                                                    first price. */                    \
    "  local held = redis.call('HGET', KEYS[1], hold)\n"                                                               \
    "  if held then\n"                                                                                                 \
    "    redis.call('HSET', KEYS[1], hold, string.match(held, '^%d+') .. ' ' .. d(now + ARGV[9]))\n"                   \
    "    redis.call('PEXPIRE', KEYS[1], ARGV[11])\n"                                                                   \
    "  end\n"                                                                                                          \
    "  if held or amount < 0 then\n"                                                                                   \
    "    marker(price, quantity)\n"                                                                                    \
    "    return {1, tonumber(price), tonumber(quantity)}\n"                                                            \
    "  end\n"                                                                                                          \
    "end\n"                                                                                                            \
    "if amount < 0 then return {12, 0, 0} end\n"                                                                       \
    "if KEYS[3] then\n"                                                                                                \
    "  local last = redis.call('GET', KEYS[3])\n"                                                                      \
    "  if last and last ~= rid then return {11, 0, 0} end\n"                                                           \
    "end\n"

/* `count` writes the rate of answers that end the request; a STALE one comes back and is counted then. */
#define LUA_RESERVE_WALLET                                                                                             \
    "local w = redis.call('HMGET', KEYS[1], 'b', 'v', 's', 'f', 'c', 'h', 'n', 'r', 'k', hold)\n"                      \
    "if not w[1] or tonumber(w[4]) < now then return {5, 0, 0} end\n"                                                  \
    "local confirmed = tonumber(w[5]) >= now - 1000\n"                                                                 \
    "if w[2] == '0' then return {confirmed and 6 or 5, 0, 0} end\n"                                                    \
    "local used = w[8] == t[1] and tonumber(w[9]) or 0\n"                                                              \
    "if used >= tonumber(ARGV[7]) then return {7, 1000 - now % 1000, 0} end\n"                                         \
    "local function refuse(answer, x)\n"                                                                               \
    "  redis.call('HSET', KEYS[1], 'r', t[1], 'k', d(used + 1))\n"                                                     \
    "  return {answer, x, 0}\n"                                                                                        \
    "end\n"                                                                                                            \
    "if w[3] ~= '1' then\n"                                                                                            \
    "  if confirmed then return refuse(8, 0) end\n"                                                                    \
    "  return {5, 0, 0}\n"                                                                                             \
    "end\n"

#define LUA_RESERVE_HOLD                                                                                               \
    "local b, h, n = tonumber(w[1]), tonumber(w[6] or '0'), tonumber(w[7] or '0')\n"                                   \
    "local function purge()\n"                                                                                         \
    "  local all, due = redis.call('HGETALL', KEYS[1]), {}\n"                                                          \
    "  h, n = 0, 0\n"                                                                                                  \
    "  for i = 1, #all, 2 do\n"                                                                                        \
    "    if string.sub(all[i], 1, 2) == 'h:' then\n"                                                                   \
    "      local a, until_ = string.match(all[i + 1], '^(%d+) (%d+)$')\n"                                              \
    "      if tonumber(until_) <= now then due[#due + 1] = all[i]\n"                                                   \
    "      elseif all[i] ~= hold then h = h + tonumber(a) n = n + 1 end\n"                                             \
    "    end\n"                                                                                                        \
    "  end\n"                                                                                                          \
    "  if #due > 0 then redis.call('HDEL', KEYS[1], unpack(due)) end\n"                                                \
    "end\n" /* A hold whose marker was evicted is replaced, not added to. */                                           \
    "if w[10] then h = h - tonumber(string.match(w[10], '^%d+')) n = n - 1 end\n"                                      \
    "local max = tonumber(ARGV[13])\n"                                                                                 \
    "local purged = false\n"                                                                                           \
    "if n > 0 and (n >= max or b - h < amount) then purge() purged = true end\n"                                       \
    "local function settle_counts()\n"                                                                                 \
    "  if not purged then return end\n"                                                                                \
    "  local own = redis.call('HGET', KEYS[1], hold)\n"                                                                \
    "  local a = own and tonumber(string.match(own, '^%d+')) or 0\n"                                                   \
    "  redis.call('HSET', KEYS[1], 'h', d(h + a), 'n', d(n + (own and 1 or 0)))\n"                                     \
    "end\n"                                                                                                            \
    "if n >= max then settle_counts() return refuse(9, 0) end\n"                                                       \
    "if b - h < amount then\n"                                                                                         \
    "  settle_counts()\n"                                                                                              \
    "  if confirmed then return refuse(10, b - h) end\n"                                                               \
    "  return {5, 0, 0}\n"                                                                                             \
    "end\n"                                                                                                            \
    "redis.call('HSET', KEYS[1], hold, d(amount) .. ' ' .. d(now + ARGV[9]), 'h', d(h + amount),\n"                    \
    "  'n', d(n + 1), 'r', t[1], 'k', d(used + 1))\n"                                                                  \
    "redis.call('PEXPIRE', KEYS[1], ARGV[11])\n"                                                                       \
    "marker(ARGV[4], ARGV[5])\n"                                                                                       \
    "if KEYS[3] then redis.call('SET', KEYS[3], rid, 'PX', ARGV[12]) end\n"                                            \
    "return {1, tonumber(ARGV[4]), tonumber(ARGV[5])}\n"

#define LUA_ABORT                                                                                                      \
    "local m = redis.call('GET', KEYS[2])\n"                                                                           \
    "if not m then return 0 end\n"                                                                                     \
    "local state, nonce = string.match(m, '^(%a) .* (%x+)$')\n"                                                        \
    "if state ~= 'P' or nonce ~= ARGV[2] then return 0 end\n"                                                          \
    "local hold = 'h:' .. ARGV[1]\n"                                                                                   \
    "local held = redis.call('HGET', KEYS[1], hold)\n"                                                                 \
    "if held then\n"                                                                                                   \
    "  redis.call('HDEL', KEYS[1], hold)\n"                                                                            \
    "  redis.call('HINCRBY', KEYS[1], 'h', '-' .. string.match(held, '^%d+'))\n"                                       \
    "  redis.call('HINCRBY', KEYS[1], 'n', -1)\n"                                                                      \
    "end\n"                                                                                                            \
    "redis.call('DEL', KEYS[2])\n"                                                                                     \
    "if KEYS[3] and redis.call('GET', KEYS[3]) == ARGV[1] then redis.call('DEL', KEYS[3]) end\n"                       \
    "return 1\n"

/* Shared by LOAD and PUBLISH: ARGV ver balance status fresh_ms wallet_ttl_ms. */
#define LUA_TAKE                                                                                                       \
    "local cur = redis.call('HGET', KEYS[1], 'v')\n"                                                                   \
    "if cur and tonumber(ARGV[1]) < tonumber(cur) then return 0 end\n"                                                 \
    "redis.call('HSET', KEYS[1], 'b', ARGV[2], 'v', ARGV[1], 's', ARGV[3], 'f', d(now + ARGV[4]), 'c', d(now))\n"      \
    "redis.call('PEXPIRE', KEYS[1], ARGV[5])\n"                                                                        \
    "return 1\n"

/* Holds first and unconditionally: a rejected command does not move the version, yet its hold must go (F9). */
#define LUA_RELEASE                                                                                                    \
    "if #ARGV > 5 then\n"                                                                                              \
    "  local ids = {}\n"                                                                                               \
    "  for i = 6, #ARGV do ids[#ids + 1] = 'h:' .. ARGV[i] end\n"                                                      \
    "  local held, gone, sum, seen = redis.call('HMGET', KEYS[1], unpack(ids)), {}, 0, {}\n"                           \
    "  for i = 1, #ids do\n"                                                                                           \
    "    if held[i] and not seen[ids[i]] then\n"                                                                       \
    "      seen[ids[i]] = true\n"                                                                                      \
    "      gone[#gone + 1] = ids[i]\n"                                                                                 \
    "      sum = sum + tonumber(string.match(held[i], '^%d+'))\n"                                                      \
    "    end\n"                                                                                                        \
    "  end\n"                                                                                                          \
    "  if #gone > 0 then\n"                                                                                            \
    "    redis.call('HDEL', KEYS[1], unpack(gone))\n"                                                                  \
    "    redis.call('HINCRBY', KEYS[1], 'h', d(-sum))\n"                                                               \
    "    redis.call('HINCRBY', KEYS[1], 'n', d(-#gone))\n"                                                             \
    "  end\n"                                                                                                          \
    "end\n"                                                                                                            \
    "if ARGV[1] == '-1' then return 0 end\n"

static const char *const texts[GF_SCRIPT_COUNT] = {
    [GF_SCRIPT_RESERVE] = LUA_NOW LUA_RESERVE_MARKER LUA_RESERVE_WALLET LUA_RESERVE_HOLD,
    [GF_SCRIPT_ABORT] = LUA_ABORT,
    [GF_SCRIPT_LOAD] = LUA_NOW LUA_TAKE,
    [GF_SCRIPT_PUBLISH] = LUA_NOW LUA_RELEASE LUA_TAKE,
};

const char *gf_script_text(enum gf_script script)
{
    GF_ASSERT(script < GF_SCRIPT_COUNT);
    return texts[script];
}
