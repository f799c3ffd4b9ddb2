/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Small HTTP/1.1 keep-alive client for the load harness and tools: one request at a time per connection. */
#include "gf/http.h"

struct gf_http_conn;
/* status 0: connection failed or timed out (whether the request was served is unknown). body borrowed. */
typedef void (*gf_http_reply_fn)(void *ctx, struct gf_http_conn *conn, int status, const char *body, size_t len);
struct gf_http_conn *gf_http_conn_create(struct gf_loop *loop, const char *host, int port, int64_t timeout_ms);
/* `request`: complete head and body. Connects when needed. Asserts that none is in flight. */
void gf_http_conn_send(struct gf_http_conn *conn, const char *request, size_t len, gf_http_reply_fn on_reply, void *ctx);
void gf_http_conn_close(struct gf_http_conn **conn);
