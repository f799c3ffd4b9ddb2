/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A role or tool of the one binary: `giftflow NAME ...`. Each is a const struct in its own folder; src/main.c only picks.
 * Roles (long-running) run until SIGTERM/SIGINT, drain, and return 0; a second signal exits at once.
 * Exit codes: 0 ok, 1 failure, 2 usage, 3 an invariant is broken (verify). */
#include "gf/base.h"
#include "gf/config.h"

struct gf_role {
    const char *name;
    const char *summary; /* one line for `giftflow help` */
    const char *usage;   /* arguments after the name; NULL: none, main refuses any */
    const char *details; /* more for --help, ends in a line break; NULL: none */
    bool needs_config;   /* load --config FILE (or GIFTFLOW_CONFIG, else defaults) before run */
    int (*run)(const struct gf_config *config, int argc, char **argv); /* argv[0] = role name; --config already removed */
};

extern const struct gf_role gf_role_ingest, gf_role_settle, gf_role_router, gf_role_gateway, gf_role_sweep;
extern const struct gf_role gf_role_init, gf_role_verify, gf_role_dlq, gf_role_load, gf_role_config, gf_role_fund, gf_role_points;
