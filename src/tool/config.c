/* SPDX-License-Identifier: Apache-2.0 */
/* `giftflow config check|defaults|doc`: the configuration that would be used is valid; all keys with their defaults as an
 * INI file; the reference as Markdown. main has loaded (and so checked) the configuration before run. */
#include <stdio.h>
#include <string.h>

#include "gf/role.h"
#include "tool.h"

#define USAGE "check | defaults | doc"

/* main has checked what holds for every role. */
static int check(const struct gf_config *config)
{
    struct gf_error error;

    if (gf_config_check_ingest(config, &error) != GF_OK) {
        fprintf(stderr, "giftflow config: %s\n", error.text);
        return 2;
    }
    printf("the configuration is valid\n");
    return 0;
}

static int run(const struct gf_config *config, int argc, char **argv)
{
    if (argc != 2)
        return gf_tool_usage("config", USAGE, "takes exactly one word");
    if (strcmp(argv[1], "check") == 0)
        return check(config);
    if (strcmp(argv[1], "defaults") == 0)
        gf_config_print_defaults();
    else if (strcmp(argv[1], "doc") == 0)
        gf_config_print_doc();
    else
        return gf_tool_usage("config", USAGE, "does not know this word");
    return 0;
}

const struct gf_role gf_role_config = {
    .name = "config",
    .summary = "configuration: check it, print the defaults or the reference",
    .usage = USAGE,
    .needs_config = true,
    .run = run,
};
