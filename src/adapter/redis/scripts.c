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
 * PUBLISH  KEYS w        ARGV ver balance status fresh_ms wallet_ttl_ms rid* -> 1 taken, 0 not; ver -1: release only
 * PUBLISH_MANY  KEYS w*  ARGV fresh_ms wallet_ttl_ms {ver balance status count rid*}*  -> wallets that failed; one that
 *          fails (a key of another type) holds up no other. One call for many wallets costs a third of one call each. */
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

/* ARGV ver balance status fresh_ms wallet_ttl_ms. */
#define LUA_LOAD                                                                                           \
    "local cur = redis.call('HGET', KEYS[1], 'v')\n"                                                       \
    "if cur and tonumber(ARGV[1]) < tonumber(cur) then return 0 end\n"                                     \
    "redis.call('HSET', KEYS[1], 'b', ARGV[2], 'v', ARGV[1], 's', ARGV[3], 'f', d(now + ARGV[4]), 'c', d(now))\n" \
    "redis.call('PEXPIRE', KEYS[1], ARGV[5])\n"                                                            \
    "return 1\n"

/* Ver, balance and status are ARGV[at] and the two behind it; the ids are ARGV[first .. last]. Holds go unconditionally:
 * a rejected command does not move the version, yet its hold must go (F9). */
#define LUA_PUBLISH_ONE                                                                                    \
    "local function publish(key, at, fresh, ttl, first, last)\n"                                           \
    "  local ask, seen, gone, sum = {'v', 'c', 'h', 'n'}, {}, {}, 0\n"                                     \
    "  for i = first, last do ask[#ask + 1] = 'h:' .. ARGV[i] end\n"                                       \
    "  local got = redis.call('HMGET', key, unpack(ask))\n"                                                \
    "  for i = 5, #ask do\n"                                                                               \
    "    if got[i] and not seen[ask[i]] then\n"                                                            \
    "      seen[ask[i]] = true\n"                                                                          \
    "      gone[#gone + 1] = ask[i]\n"                                                                     \
    "      sum = sum + tonumber(string.match(got[i], '^%d+'))\n"                                           \
    "    end\n"                                                                                            \
    "  end\n"                                                                                              \
    "  if #gone > 0 then\n"                                                                                \
    "    redis.call('HDEL', key, unpack(gone))\n"                                                          \
    "    redis.call('HSET', key, 'h', d(tonumber(got[3] or '0') - sum), 'n', d(tonumber(got[4] or '0') - #gone))\n" \
    "  end\n"                                                                                              \
    "  local ver = ARGV[at]\n"                                                                             \
    "  if ver == '-1' or got[1] and tonumber(ver) < tonumber(got[1]) then return 0 end\n"                  \
    "  redis.call('HSET', key, 'b', ARGV[at + 1], 'v', ver, 's', ARGV[at + 2], 'f', fresh, 'c', stamp)\n"  \
    /* A minute more or less of a quarter of an hour is not worth a command. */                            \
    "  if not got[2] or now - got[2] > 60000 then redis.call('PEXPIRE', key, ttl) end\n"                   \
    "  return 1\n"                                                                                         \
    "end\n"

#define LUA_PUBLISH                                                                                        \
    "local stamp = d(now)\n" LUA_PUBLISH_ONE                                                               \
    "return publish(KEYS[1], 1, d(now + ARGV[4]), ARGV[5], 6, #ARGV)\n"

#define LUA_PUBLISH_MANY                                                                                   \
    "local stamp, fresh, at, failed = d(now), d(now + ARGV[1]), 3, 0\n" LUA_PUBLISH_ONE                    \
    "for i = 1, #KEYS do\n"                                                                                \
    "  local last = at + 3 + ARGV[at + 3]\n"                                                               \
    "  if not pcall(publish, KEYS[i], at, fresh, ARGV[2], at + 4, last) then failed = failed + 1 end\n"    \
    "  at = last + 1\n"                                                                                    \
    "end\n"                                                                                                \
    "return failed\n"

static const char *const texts[GF_SCRIPT_COUNT] = {
    [GF_SCRIPT_RESERVE] = LUA_NOW LUA_RESERVE_MARKER LUA_RESERVE_WALLET LUA_RESERVE_HOLD,
    [GF_SCRIPT_ABORT] = LUA_ABORT,
    [GF_SCRIPT_LOAD] = LUA_NOW LUA_LOAD,
    [GF_SCRIPT_PUBLISH] = LUA_NOW LUA_PUBLISH,
    [GF_SCRIPT_PUBLISH_MANY] = LUA_NOW LUA_PUBLISH_MANY,
};

const char *gf_script_text(enum gf_script script)
{
    GF_ASSERT(script < GF_SCRIPT_COUNT);
    return texts[script];
}
