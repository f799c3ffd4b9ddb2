/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The operations port of every role: /healthz (the loop turns), /readyz (the parts are there; 503 names what is missing),
 * /metrics. `on_ready` returns true when ready, else writes the reason. Thread: the loop's. */
#include "gf/buf.h"
#include "gf/config.h"
#include "gf/loop.h"

#define GF_OPS_CLOSE_MS 10000 /* after ops.drain_timeout: for closing what libraries hold; then the process ends as it is */

struct gf_ops;
typedef bool (*gf_ops_ready_fn)(void *ctx, struct gf_buf *reason);

GF_NODISCARD enum gf_class gf_ops_start(struct gf_loop *loop, const struct gf_config *config, const char *role,
                                        gf_ops_ready_fn on_ready, void *ctx, struct gf_ops **ops_r, struct gf_error *error_r);
void gf_ops_draining(struct gf_ops *ops); /* /readyz answers 503 from now on */
void gf_ops_close(struct gf_ops **ops);
