/* SPDX-License-Identifier: Apache-2.0 */
/* Encoding of commands in RESP: one exact allocation each, no format strings on the way of a request. */
#include <string.h>

#include "gf/num.h"
#include "scripts.h"

#define BULK_OVERHEAD (1 + GF_NUM_TEXT + 2 + 2) /* "$<len>\r\n" ... "\r\n" */
#define HEAD_MAX 32                    /* "*<count>\r\n" */

static char *put_count(char *at, char type, size_t value)
{
    *at++ = type;
    at = gf_num_put(at, (int64_t)value);
    *at++ = '\r';
    *at++ = '\n';
    return at;
}

static char *put_bulk(char *at, const char *bytes, size_t len)
{
    at = put_count(at, '$', len);
    if (len > 0)
        memcpy(at, bytes, len);
    at += len;
    *at++ = '\r';
    *at++ = '\n';
    return at;
}

static char *put_number(char *at, size_t value)
{
    char text[GF_NUM_TEXT];

    return put_bulk(at, text, (size_t)(gf_num_put(text, (int64_t)value) - text));
}

static struct gf_resp *resp_alloc(const struct gf_redis_arg *args, size_t count, size_t more)
{
    size_t size = sizeof(struct gf_resp) + HEAD_MAX + more;

    for (size_t i = 0; i < count; i++)
        size += args[i].len + BULK_OVERHEAD;
    return gf_xmalloc(size);
}

struct gf_resp *gf_resp_command(const struct gf_redis_arg *args, size_t count)
{
    struct gf_resp *resp = resp_alloc(args, count, 0);
    char *at = put_count(resp->text, '*', count);

    for (size_t i = 0; i < count; i++)
        at = put_bulk(at, args[i].ptr, args[i].len);
    resp->head_len = 0;
    resp->parts = count;
    resp->len = (size_t)(at - resp->text);
    return resp;
}

struct gf_resp *gf_resp_evalsha(const char sha[GF_SHA1_TEXT], const struct gf_redis_arg *args, size_t count,
                                size_t key_count)
{
    struct gf_resp *resp = resp_alloc(args, count, 7 + GF_SHA1_TEXT + GF_NUM_TEXT + 3 * BULK_OVERHEAD);
    char *at = put_count(resp->text, '*', count + 3);

    GF_ASSERT(key_count <= count);
    at = put_bulk(at, "EVALSHA", 7);
    at = put_bulk(at, sha, GF_SHA1_TEXT);
    resp->head_len = (size_t)(at - resp->text);
    at = put_number(at, key_count);
    for (size_t i = 0; i < count; i++)
        at = put_bulk(at, args[i].ptr, args[i].len);
    resp->parts = count + 1;
    resp->len = (size_t)(at - resp->text);
    return resp;
}

struct gf_resp *gf_resp_eval(const struct gf_resp *evalsha, enum gf_script script)
{
    const char *source = gf_script_text(script);
    size_t source_len = strlen(source), tail_len = evalsha->len - evalsha->head_len;
    struct gf_resp *resp = resp_alloc(NULL, 0, source_len + tail_len + 2 * BULK_OVERHEAD + 4);
    char *at = put_count(resp->text, '*', evalsha->parts + 2);

    GF_ASSERT(evalsha->head_len > 0);
    at = put_bulk(at, "EVAL", 4);
    at = put_bulk(at, source, source_len);
    memcpy(at, evalsha->text + evalsha->head_len, tail_len);
    resp->head_len = (size_t)(at - resp->text);
    resp->parts = evalsha->parts;
    resp->len = resp->head_len + tail_len;
    return resp;
}
