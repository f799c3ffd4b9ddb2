/* SPDX-License-Identifier: Apache-2.0 */
/* redis://host[:port] and unix:///path, one or several, and who lives where; see address.h and gf/redis.h. */
#include "address.h"

#include <stdio.h>
#include <string.h>

#include "gf/clock.h"
#include "gf/num.h"
#include "gf/redis.h"

#define DEFAULT_PORT 6379

static enum gf_class parse_tcp(const char *text, struct gf_redis_address *address_r, struct gf_error *error_r)
{
    const char *end = text + strcspn(text, "/"), *colon = NULL;
    struct gf_redis_address address = {.port = DEFAULT_PORT};
    int64_t port;

    for (const char *at = text; at < end; at++)
        if (*at == ':')
            colon = at;
    if (memchr(text, '@', (size_t)(end - text)))
        return gf_fail(error_r, GF_REJECT, 0, "redis.url: no password in the address, use redis.password_file");
    if (colon) {
        if (!gf_num_parse_i64(colon + 1, (size_t)(end - colon - 1), 1, 65535, &port))
            return gf_fail(error_r, GF_REJECT, 0, "redis.url: bad port");
        address.port = (int)port;
        end = colon;
    }
    if (end == text || (size_t)(end - text) >= sizeof(address.host))
        return gf_fail(error_r, GF_REJECT, 0, "redis.url: bad host");
    memcpy(address.host, text, (size_t)(end - text));
    *address_r = address;
    return GF_OK;
}

int gf_redis_shards(const struct gf_config *config)
{
    int count = 1;

    for (const char *at = config->redis_url; *at; at++)
        count += *at == ',';
    return count;
}

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

static enum gf_class parse_one(const char *url, struct gf_redis_address *address_r, struct gf_error *error_r)
{
    if (strncmp(url, "redis://", 8) == 0)
        return parse_tcp(url + 8, address_r, error_r);
    if (strncmp(url, "unix://", 7) == 0 && url[7] == '/' && strlen(url + 7) < sizeof(address_r->host)) {
        gf_copy(address_r->host, sizeof(address_r->host), url + 7);
        address_r->port = 0;
        return GF_OK;
    }
    return gf_fail(error_r, GF_REJECT, 0, "redis.url: redis://host:port or unix:///path is wanted");
}

enum gf_class gf_redis_address_parse(const char *urls, int shard, struct gf_redis_address *address_r,
                                     struct gf_error *error_r)
{
    char url[GF_REDIS_HOST_MAX + 32];
    size_t len;

    for (int i = 0; i < shard; i++)
        urls += strcspn(urls, ",") + 1;
    len = strcspn(urls, ",");
    if (len >= sizeof(url))
        return gf_fail(error_r, GF_REJECT, 0, "redis.url: an address is too long");
    memcpy(url, urls, len);
    url[len] = '\0';
    return parse_one(url, address_r, error_r);
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
