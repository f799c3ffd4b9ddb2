/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Lua sources of the scripts and the encoding of one call (RESP), shared by the two links of this folder. */
#include "gf/redis.h"

#define GF_SHA1_TEXT 40
#define GF_SCRIPT_NONE GF_SCRIPT_COUNT /* a plain command */

const char *gf_script_text(enum gf_script script);

/* One encoded command. A script's arguments (number of keys, keys, rest) stay apart from its head, so that NOSCRIPT can
 * be answered by EVAL of the same call. Allocated in one piece; free with free(). */
struct gf_resp {
    size_t head_len; /* "*N EVALSHA <sha>"; 0 for plain commands */
    size_t parts;    /* bulk strings after the head */
    size_t len;      /* whole text */
    char text[];
};

struct gf_resp *gf_resp_command(const struct gf_redis_arg *args, size_t count);
/* args: keys first. */
struct gf_resp *gf_resp_evalsha(const char sha[GF_SHA1_TEXT], const struct gf_redis_arg *args, size_t count,
                                size_t key_count);
/* The same call with the script's source instead of its digest. */
struct gf_resp *gf_resp_eval(const struct gf_resp *evalsha, enum gf_script script);
