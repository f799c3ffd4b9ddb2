/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* HTTP/1.1 server (libuv + llhttp). Strict: RFC 9112 framing, smuggling inputs are 400 and closed. One request at a time
 * per connection (pipelined bytes wait); the handler answers now or later, exactly once, by gf_http_respond.
 * Thread: the loop's. A request stays valid until it is answered, also when its client has gone. */
#include "gf/base.h"
#include "gf/loop.h"
#include "gf/uuid.h"

struct gf_http_server;
struct gf_http_req;

enum gf_http_method { GF_HTTP_GET, GF_HTTP_POST, GF_HTTP_PUT, GF_HTTP_DELETE, GF_HTTP_OTHER };

struct gf_http_opts {
    const char *bind;
    int port; /* 0: any free port, see gf_http_server_port */
    size_t header_max, body_max;
    int connections_max;
    int64_t header_timeout_ms, body_timeout_ms, idle_timeout_ms, request_timeout_ms;
    int64_t slow_timeout_ms; /* an answer's, while those that have not left take half of the room for them. 0: a second */
    const char *origins; /* web pages that may call: Origin values, comma-separated; NULL or "": none. Borrowed */
    bool count_metrics; /* HTTP_* metrics are this server's */
};

typedef void (*gf_http_handler_fn)(struct gf_http_req *req, void *ctx);
/* For `Upgrade:` requests, when set: returns true if it took the connection (see gf_http_take). */
typedef bool (*gf_http_upgrade_fn)(struct gf_http_req *req, void *ctx);

GF_NODISCARD enum gf_class gf_http_server_create(struct gf_loop *loop, const struct gf_http_opts *opts,
                                                 gf_http_handler_fn on_request, void *ctx,
                                                 struct gf_http_server **server_r, struct gf_error *error_r);
void gf_http_server_on_upgrade(struct gf_http_server *server, gf_http_upgrade_fn on_upgrade);
void gf_http_server_limit(struct gf_http_server *server, int connections_max); /* from now on; those that are open stay */
int gf_http_server_port(const struct gf_http_server *server);
/* Requests that have begun to arrive, are handed out, or whose answer has not left: what a close would cut. */
int gf_http_server_in_flight(const struct gf_http_server *server);
void gf_http_server_drain(struct gf_http_server *server); /* stop accepting; idle connections close, others after their answer */
void gf_http_server_close(struct gf_http_server **server); /* cuts everything that is left */

struct gf_slice {
    const char *ptr;
    size_t len;
};
static inline bool gf_slice_is(struct gf_slice s, const char *text)
{
    return s.len == __builtin_strlen(text) && __builtin_memcmp(s.ptr, text, s.len) == 0;
}

enum gf_http_method gf_http_method(const struct gf_http_req *req);
struct gf_slice gf_http_path(const struct gf_http_req *req);  /* as sent, without the query */
struct gf_slice gf_http_body(const struct gf_http_req *req);
/* ptr == NULL when absent; a header that came more than once is reported by *count_r (may be NULL). Name in lower case. */
struct gf_slice gf_http_header(const struct gf_http_req *req, const char *name, int *count_r);
struct gf_slice gf_http_query(const struct gf_http_req *req, const char *name); /* raw, not percent-decoded */
int64_t gf_http_received_us(const struct gf_http_req *req); /* monotonic time at which the request was complete */
void gf_http_set_user(struct gf_http_req *req, void *user, gf_loop_fn on_free); /* freed with the request */
void *gf_http_user(const struct gf_http_req *req);
bool gf_http_client_gone(const struct gf_http_req *req);

struct gf_http_answer {
    int status;
    const char *content_type; /* NULL: no body */
    const char *headers;      /* more header lines, each ended by \r\n; NULL: none */
    const char *body;
    size_t body_len;
    bool close; /* close the connection after this answer */
};
void gf_http_respond(struct gf_http_req *req, const struct gf_http_answer *answer); /* copies; req is gone afterwards */

/* application/problem+json (RFC 9457): type, title, status, detail, code, request_id. */
struct gf_http_problem {
    int status;
    const char *code;                 /* stable */
    const char *detail;               /* for people */
    const struct gf_uuid *request_id; /* NULL: the one given to gf_http_set_request_id, else a fresh one */
    const char *headers;              /* as in gf_http_answer */
    bool close;
};
void gf_http_respond_problem(struct gf_http_req *req, const struct gf_http_problem *problem);
/* The id that problems of this request carry from now on, the server's own 503 after request_timeout included. That answer
 * comes by itself; the handler's later gf_http_respond is then dropped, and is still needed to free the request. */
void gf_http_set_request_id(struct gf_http_req *req, const struct gf_uuid *id);

/* Upgrade: hands the native stream (uv_tcp_t *, heap, taken) and the bytes already read past the headers to an adapter.
 * Only inside the upgrade callback. The request (and rest) stays readable until that returns true, then it is freed. A
 * callback may also answer by gf_http_respond and return true; false leaves the request to the ordinary handler. */
void *gf_http_take(struct gf_http_req *req, struct gf_slice *rest_r);
