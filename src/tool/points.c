/* SPDX-License-Identifier: Apache-2.0 */
/* `giftflow points`: where a test build can be told to stop. A release build has none, and says so. */
#include <stdio.h>

#include "gf/point.h"
#include "gf/role.h"
#include "tool.h"

static int run(const struct gf_config *config, int argc, char **argv)
{
    (void)config;
    (void)argc;
    (void)argv;
#ifdef GF_POINTS
    for (int i = 0;; i++) {
        const char *name, *text;

        if (!gf_point_about(i, &name, &text))
            return 0;
        printf("%-30s %s\n", name, text);
    }
#else
    fprintf(stderr, "giftflow points: this build has none; test builds do (cmake -DGF_POINTS=ON)\n");
    return 1;
#endif
}

const struct gf_role gf_role_points = {.name = "points", .summary = "test builds: where a process can be told to stop", .run = run};
