/* SPDX-License-Identifier: Apache-2.0 */
/* Arguments and waiting for MySQL, shared by the tools. */
#include <stdio.h>
#include <string.h>

#include "gf/clock.h"
#include "tool.h"

bool gf_tool_option(int argc, char **argv, int *at, const char *name, const char **value_r)
{
    const char *arg = argv[*at];
    size_t len = strlen(name);

    if (strncmp(arg, name, len) != 0)
        return false;
    if (arg[len] == '=') {
        *value_r = arg + len + 1;
        return true;
    }
    if (arg[len] != '\0')
        return false;
    *value_r = *at + 1 < argc ? argv[++*at] : NULL;
    return true;
}

int gf_tool_usage(const char *name, const char *usage, const char *problem)
{
    fprintf(stderr, "giftflow %s: %s\nusage: giftflow %s [--config FILE] %s\n", name, problem, name, usage);
    return 2;
}

/* Wrong credentials and a missing database do not heal by waiting, though a role that runs would try on. */
static bool is_final(const struct gf_error *error)
{
    return error->native == 1044 || error->native == 1045 || error->native == 1049;
}

enum gf_class gf_tool_connect(const struct gf_config *config, int64_t wait_ms, struct gf_sql **sql_r,
                              struct gf_error *error_r)
{
    int64_t deadline_ms = gf_clock_mono_ms() + wait_ms;
    enum gf_class class;

    while ((class = gf_sql_connect(config, GF_SQL_PLAIN, sql_r, error_r)) == GF_RETRY && !is_final(error_r) &&
           gf_clock_mono_ms() < deadline_ms)
        gf_clock_sleep_ms(100);
    return class;
}
