/* SPDX-License-Identifier: Apache-2.0 */
/* giftflow: one binary, argv[1] picks the role or tool. Nothing else happens here. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gf/log.h"
#include "gf/role.h"
#include "gf/sql.h"

static const struct gf_role *const roles[] = {
    &gf_role_ingest, &gf_role_settle, &gf_role_router, &gf_role_gateway, &gf_role_sweep,
    &gf_role_init,   &gf_role_verify, &gf_role_dlq,    &gf_role_load,    &gf_role_fund,
    &gf_role_config, &gf_role_points,
};

static int usage(FILE *out, int status)
{
    fprintf(out, "usage: giftflow NAME [--config FILE] [...]\n\n");
    for (size_t i = 0; i < GF_COUNT(roles); i++)
        fprintf(out, "  %-9s %s\n", roles[i]->name, roles[i]->summary);
    fprintf(out, "\n`giftflow NAME --help` shows a name's arguments. The configuration file may also be named by\n"
                 "GIFTFLOW_CONFIG; every key can be overridden by GIFTFLOW_<SECTION>_<KEY>.\n");
    return status;
}

/* Takes `--config FILE` or `--config=FILE` out of the arguments; false: the file is not named. */
static bool take_config(int *argc, char **argv, const char **path_r)
{
    static const char option[] = "--config";

    *path_r = getenv("GIFTFLOW_CONFIG");
    for (int i = 1; i < *argc; i++) {
        const char *rest = argv[i] + sizeof(option) - 1;
        int taken = 1;

        if (strncmp(argv[i], option, sizeof(option) - 1) != 0 || (rest[0] != '\0' && rest[0] != '='))
            continue;
        if (rest[0] == '\0') /* the next argument, or the final NULL */
            taken = 2;
        *path_r = taken == 2 ? argv[i + 1] : rest + 1;
        if (*path_r == NULL || (*path_r)[0] == '\0')
            return false;
        memmove(&argv[i], &argv[i + taken], (size_t)(*argc - i - taken + 1) * sizeof(argv[0])); /* the final NULL too */
        *argc -= taken;
        break;
    }
    return true;
}

static int run(const struct gf_role *role, int argc, char **argv)
{
    static struct gf_config config; /* large; lives as long as the process */
    struct gf_error error;
    const char *path;

    if (argc > 1 && strcmp(argv[1], "--help") == 0) {
        printf("usage: giftflow %s [--config FILE] %s\n\n%s\n", role->name, role->usage ? role->usage : "", role->summary);
        if (role->details != NULL)
            printf("\n%s", role->details);
        return 0;
    }
    gf_log_init(role->name, GF_INFO);
    if (!take_config(&argc, argv, &path)) {
        fprintf(stderr, "giftflow %s: --config needs a file\n", role->name);
        return 2;
    }
    if (role->usage == NULL && argc > 1) { /* one that is not looked at would be one that was meant */
        fprintf(stderr, "giftflow %s: unknown argument '%s'\n", role->name, argv[1]);
        return 2;
    }
    if (role->needs_config) {
        if (gf_config_load(&config, path, &error) != GF_OK) {
            fprintf(stderr, "giftflow %s: %s\n", role->name, error.text);
            return 2;
        }
        gf_log_init(role->name, gf_log_level_parse(config.log_level));
    }
    (void)signal(SIGPIPE, SIG_IGN); /* a peer that hangs up is an error code, not the end of the process */
    gf_sql_library_init();
    return role->run(&config, argc, argv);
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return usage(stderr, 2);
    if (strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        return usage(stdout, 0);
    if (strcmp(argv[1], "version") == 0 || strcmp(argv[1], "--version") == 0) {
        printf("giftflow %s\n", GF_VERSION);
        return 0;
    }
    for (size_t i = 0; i < GF_COUNT(roles); i++)
        if (strcmp(argv[1], roles[i]->name) == 0)
            return run(roles[i], argc - 1, argv + 1);
    fprintf(stderr, "giftflow: no role or tool is named '%s'\n", argv[1]);
    return usage(stderr, 2);
}
