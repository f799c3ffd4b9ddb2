/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "gf/role.h"

static int run(const struct gf_config *config, int argc, char **argv)
{
    (void)config;
    (void)argc;
    fprintf(stderr, "giftflow %s: not there yet\n", argv[0]);
    return 1;
}

const struct gf_role gf_role_gateway = {.name = "gateway", .summary = "WebSockets of live-room clients", .needs_config = true, .run = run};
