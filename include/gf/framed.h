/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Length-prefixed messages over TCP between router and gateway (src/adapter/uv): u32 big-endian length, then the bytes.
 * Bounded: longest message and most unsent bytes per peer; a peer past either is closed. Thread: the loop's. */
#include "gf/base.h"
#include "gf/loop.h"

struct gf_framed;          /* one connection */
struct gf_framed_listener;

struct gf_framed_handler {
    void (*on_open)(void *ctx, struct gf_framed *peer);                                   /* connected or accepted */
    void (*on_message)(void *ctx, struct gf_framed *peer, const char *bytes, size_t len); /* borrowed */
    void (*on_close)(void *ctx, struct gf_framed *peer, const char *reason);              /* the last call for this peer */
    void *ctx;
    size_t message_max, unsent_max;
};
GF_NODISCARD enum gf_class gf_framed_listen(struct gf_loop *loop, const char *bind, int port,
                                            const struct gf_framed_handler *handler, struct gf_framed_listener **listener_r,
                                            struct gf_error *error_r);
int gf_framed_port(const struct gf_framed_listener *listener);
void gf_framed_listener_close(struct gf_framed_listener **listener); /* peers stay */
/* Connects in the background: on_open or on_close follows. */
struct gf_framed *gf_framed_connect(struct gf_loop *loop, const char *host, int port, const struct gf_framed_handler *handler);
bool gf_framed_send(struct gf_framed *peer, const void *bytes, size_t len); /* false: peer was over its bound and is closing */
void gf_framed_close(struct gf_framed *peer, const char *reason);          /* on_close follows in a later turn */
void gf_framed_set_user(struct gf_framed *peer, void *user);
void *gf_framed_user(const struct gf_framed *peer);
