/* SPDX-License-Identifier: Apache-2.0 */
/* The servers of mysql.hosts, or the one of mysql.socket, mysql.host and mysql.port. Pure; see gf/config.h. */
#include <stdio.h>
#include <string.h>

#include "gf/config.h"
#include "gf/num.h"

/* host, host:port, [v6], [v6]:port */
static bool parse_tcp(const char *text, size_t len, int default_port, struct gf_mysql_host *host_r)
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

static bool parse_one(const char *text, size_t len, int default_port, struct gf_mysql_host *host_r)
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

static int only_one(const struct gf_config *config, struct gf_mysql_host *host_r)
{
    bool socket = config->mysql_socket[0] != '\0';

    gf_copy(host_r->name, sizeof(host_r->name), socket ? config->mysql_socket : config->mysql_host);
    host_r->port = socket ? 0 : (int)config->mysql_port;
    return 1;
}

int gf_config_mysql_hosts(const struct gf_config *config, struct gf_mysql_host hosts_r[GF_MYSQL_HOSTS_MAX])
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
