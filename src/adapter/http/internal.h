/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What server.c (connections) and answer.c (bytes out) share. A connection carries its one request inside; its memory
 * lives until the socket's handle is closed and the handler has answered, whichever is later. */
#include <uv.h>

#include "gf/buf.h"
#include "parser.h"

enum conn_state {
    CONN_IDLE,    /* no byte of a request is here */
    CONN_HEAD,    /* a request has begun */
    CONN_BODY,    /* its head is complete */
    CONN_FLIGHT,  /* the handler has it */
    CONN_WRITING, /* answered, the socket is full */
    CONN_LINGER,  /* answered for the last time: what the client still sends is thrown away, so that no reset overtakes
                     our answer */
    CONN_CLOSED,
};

struct conn;
struct gf_http_req {
    struct conn *conn;
    void *user;
    gf_loop_fn on_free;
    int64_t received_us;
    struct gf_uuid id;
    bool has_id;
    bool held;     /* the handler owes gf_http_respond */
    bool answered; /* something was sent for it */
};

struct conn {
    struct gf_http_req req;
    struct gf_http_server *server;
    uv_tcp_t *tcp; /* NULL: taken, or closed */
    struct conn *prev, *next;
    enum conn_state state;
    int64_t deadline_ms;
    char *buf;
    size_t start, len, cap; /* buf[start..len): the current request and what follows it */
    size_t parsed;          /* from start on: where llhttp goes on */
    bool reading, eof, gone, close_after, processing, continued, taken;
    struct http_parser parser;
};

struct gf_http_server {
    struct gf_loop *loop;
    uv_loop_t *uv;
    uv_tcp_t listener;
    struct gf_timer *sweep;
    int64_t swept_ms; /* loop's time of the last sweep */
    bool spared;      /* that one was left out */
    struct gf_http_opts opts;
    gf_http_handler_fn on_request;
    gf_http_upgrade_fn on_upgrade;
    void *ctx;
    struct conn *conns;
    int conn_count, in_flight, port;
    int handles; /* listener, and connections until their memory is freed; ours goes with the last one */
    bool draining, closing;
    size_t unsent; /* bytes of all answers that sockets have not taken */
    struct gf_buf out;
    int64_t date_s;
    char date[64];
    char scratch[16384]; /* where thrown-away bytes go */
};

/* answer.c */
void conn_send(struct conn *conn, const struct gf_http_answer *answer);
void conn_send_problem(struct conn *conn, const struct gf_http_problem *problem);
void conn_send_continue(struct conn *conn);
void conn_cut(const struct conn *conn); /* counts one that ends against its client's will */
int64_t conn_deadline(const struct conn *conn); /* when the sweep ends it, or what it is at */

/* cors.c */
void cors_headers(const struct conn *conn, struct gf_buf *out);
bool cors_preflight(struct conn *conn);

/* server.c */
void conn_close(struct conn *conn);
void conn_written(struct conn *conn); /* the whole answer has left */
void conn_arm(struct conn *conn, enum conn_state state, int64_t timeout_ms);
