/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Where Redis is and what it wants to hear first, from the configuration. */
#include <netdb.h>
#include <netinet/in.h>

#include "gf/config.h"

#define GF_REDIS_HOST_MAX 256

struct gf_redis_address {
    char host[GF_REDIS_HOST_MAX]; /* or the path of a unix socket */
    int port;                     /* 0: unix socket */
};

/* The shard-th of the addresses in urls, which are divided by commas. */
GF_NODISCARD enum gf_class gf_redis_address_parse(const char *urls, int shard, struct gf_redis_address *address_r,
                                                  struct gf_error *error_r);
/* One address of a looked-up name as text, by lot, so that who finds none or a replica at one comes to the others, in whatever order
 * the resolver lists them. IPv6 only where there is nothing else. False: it has no address. */
GF_NODISCARD bool gf_redis_choose(const struct addrinfo *found, char host_r[INET6_ADDRSTRLEN]);
/* Empty password_r without a file; read anew for each connect, so that a changed secret needs no restart. */
GF_NODISCARD enum gf_class gf_redis_password(const struct gf_config *config, char *password_r, size_t size,
                                             struct gf_error *error_r);
