/* SPDX-License-Identifier: Apache-2.0 */
/* Which of several primaries, which address of a name, which password; see address.h and gf/redis.h. */
#include "address.h"

#include <stdio.h>
#include <string.h>

#include "gf/clock.h"
#include "gf/redis.h"

/* CRC-16/XMODEM, bit by bit, of what stands in the braces of a user's keys: Redis Cluster's function of the hash tag. */
static unsigned crc16(const char *text, size_t len)
{
    unsigned crc = 0;

    for (size_t i = 0; i < len; i++) {
        crc ^= (unsigned)(unsigned char)text[i] << 8;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc & 0x8000 ? crc << 1 ^ 0x1021 : crc << 1) & 0xffff;
    }
    return crc;
}

int gf_redis_shard(int64_t user_id, int shards)
{
    char text[32];

    if (shards <= 1)
        return 0;
    return (int)(crc16(text, (size_t)snprintf(text, sizeof(text), "u:%lld", (long long)user_id)) % (unsigned)shards);
}

static int count_of(const struct addrinfo *found, int family)
{
    int count = 0;

    for (; found; found = found->ai_next)
        count += found->ai_family == family;
    return count;
}

bool gf_redis_choose(const struct addrinfo *found, char host_r[INET6_ADDRSTRLEN])
{
    int family = count_of(found, AF_INET) > 0 ? AF_INET : AF_INET6, count = count_of(found, family);
    uint32_t lot;

    if (count == 0)
        return false;
    gf_random_bytes(&lot, sizeof(lot));
    for (lot %= (uint32_t)count; found->ai_family != family || lot > 0; found = found->ai_next)
        lot -= found->ai_family == family;
    return getnameinfo(found->ai_addr, found->ai_addrlen, host_r, INET6_ADDRSTRLEN, NULL, 0, NI_NUMERICHOST) == 0;
}

enum gf_class gf_redis_password(const struct gf_config *config, char *password_r, size_t size, struct gf_error *error_r)
{
    size_t len;

    password_r[0] = '\0';
    if (config->redis_password_file[0] == '\0')
        return GF_OK;
    return gf_config_secret(config->redis_password_file, password_r, size, &len, error_r);
}
