/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Which address is tried, and what Redis wants to hear first. */
#include <netdb.h>
#include <netinet/in.h>

#include "gf/config.h"

/* One address of a looked-up name as text, by lot, so that who finds none or a replica at one comes to the others, in whatever order
 * the resolver lists them. IPv6 only where there is nothing else. False: it has no address. */
GF_NODISCARD bool gf_redis_choose(const struct addrinfo *found, char host_r[INET6_ADDRSTRLEN]);
/* Empty password_r without a file; read anew for each connect, so that a changed secret needs no restart. */
GF_NODISCARD enum gf_class gf_redis_password(const struct gf_config *config, char *password_r, size_t size,
                                             struct gf_error *error_r);
