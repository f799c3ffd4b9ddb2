/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What the tools share: arguments and waiting for MySQL. Private to src/tool. */
#include "gf/sql.h"

/* `--name VALUE` or `--name=VALUE` at argv[*at]: sets *value_r and moves *at past it. A missing value ends in NULL. */
bool gf_tool_option(int argc, char **argv, int *at, const char *name, const char **value_r);
/* Prints the problem and the usage line to stderr; returns 2, the exit code for usage. */
int gf_tool_usage(const char *name, const char *usage, const char *problem);
/* Connects, trying again until wait_ms have passed; whatever cannot heal by itself ends at once. */
GF_NODISCARD enum gf_class gf_tool_connect(const struct gf_config *config, int64_t wait_ms, struct gf_sql **sql_r,
                                           struct gf_error *error_r);
