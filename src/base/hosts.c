/* SPDX-License-Identifier: Apache-2.0 */
/* Lists of servers: mysql.hosts (or the one of mysql.socket, mysql.host and mysql.port) and redis.url. Pure; see gf/config.h. */
#include <stdio.h>
#include <string.h>

#include "gf/config.h"
#include "gf/num.h"

#define REDIS_PORT 6379

/* host, host:port, [v6], [v6]:port */
static bool parse_tcp(const char *text, size_t len, int default_port, struct gf_host *host_r)
{
    const char *name = text, *end = text + len, *name_end = end, *after;
    int64_t port = default_port;

    if (text[0] == '[') {
        name = text + 1;
        name_end = memchr(text, ']', len);
        after = name_end != NULL ? name_end + 1 : NULL;
    } else {
        after = memchr(text, ':', len);
        name_end = after != NULL ? after : end;
        after = name_end;
    }
    if (after == NULL || name_end == name || (size_t)(name_end - name) >= sizeof(host_r->name))
        return false;
    if (after < end && (*after != ':' || !gf_num_parse_i64(after + 1, (size_t)(end - after - 1), 1, 65535, &port)))
        return false;
    memcpy(host_r->name, name, (size_t)(name_end - name));
    host_r->name[name_end - name] = '\0';
    host_r->port = (int)port;
    return strpbrk(host_r->name, " /[]") == NULL;
}

static bool parse_one(const char *text, size_t len, int default_port, struct gf_host *host_r)
{
    if (len == 0)
        return false;
    if (text[0] != '/')
        return parse_tcp(text, len, default_port, host_r);
    if (len >= sizeof(host_r->name))
        return false;
    memcpy(host_r->name, text, len);
    host_r->name[len] = '\0';
    host_r->port = 0;
    return true;
}

static int only_one(const struct gf_config *config, struct gf_host *host_r)
{
    bool socket = config->mysql_socket[0] != '\0';

    gf_copy(host_r->name, sizeof(host_r->name), socket ? config->mysql_socket : config->mysql_host);
    host_r->port = socket ? 0 : (int)config->mysql_port;
    return 1;
}

int gf_config_mysql_hosts(const struct gf_config *config, struct gf_host hosts_r[GF_MYSQL_HOSTS_MAX])
{
    const char *at = config->mysql_hosts;
    int count = 0;

    if (at[0] == '\0')
        return only_one(config, &hosts_r[0]);
    for (;;) {
        const char *end;
        size_t len;

        at += strspn(at, " ");
        len = strcspn(at, ",");
        end = at + len;
        while (len > 0 && at[len - 1] == ' ')
            len--;
        if (count == GF_MYSQL_HOSTS_MAX || !parse_one(at, len, (int)config->mysql_port, &hosts_r[count]))
            return -1;
        count++;
        if (*end == '\0')
            return count;
        at = end + 1;
    }
}

int gf_config_redis_shards(const struct gf_config *config)
{
    int count = 1;

    for (const char *at = config->redis_url; *at != '\0'; at++)
        count += *at == ',';
    return count;
}

static bool starts(const char *text, size_t len, const char *with)
{
    return len >= strlen(with) && memcmp(text, with, strlen(with)) == 0;
}

static enum gf_class parse_redis(const char *url, size_t len, struct gf_host *host_r, struct gf_error *error_r)
{
    int shown = len < 60 ? (int)len : 60;
    const char *path;

    if (starts(url, len, "unix:///") && parse_one(url + 7, len - 7, 0, host_r))
        return GF_OK;
    if (memchr(url, '@', len) != NULL) /* and no word of it into the log */
        return gf_fail(error_r, GF_REJECT, 0, "redis.url: no password in the address, use redis.password_file");
    if (!starts(url, len, "redis://"))
        return gf_fail(error_r, GF_REJECT, 0, "redis.url: redis://host:port or unix:///path is wanted, not '%.*s'", shown, url);
    path = memchr(url + 8, '/', len - 8);
    if (path != NULL && path + 1 < url + len)
        return gf_fail(error_r, GF_REJECT, 0, "redis.url: nothing may stand behind the port in '%.*s' (a database has no number here)",
                       shown, url);
    if (path != NULL)
        len--;
    if (len == 8 || !parse_tcp(url + 8, len - 8, REDIS_PORT, host_r))
        return gf_fail(error_r, GF_REJECT, 0, "redis.url: bad host or port in '%.*s'", shown, url);
    return GF_OK;
}

enum gf_class gf_config_redis_host(const struct gf_config *config, int shard, struct gf_host *host_r, struct gf_error *error_r)
{
    const char *at = config->redis_url;
    size_t len;

    for (int i = 0; i < shard; i++)
        at += strcspn(at, ",") + 1;
    at += strspn(at, " ");
    len = strcspn(at, ",");
    while (len > 0 && at[len - 1] == ' ')
        len--;
    return parse_redis(at, len, host_r, error_r);
}
