/* SPDX-License-Identifier: Apache-2.0 */
/* struct gf_reply is hiredis' redisReply under another name: no copy, only accessors that assert the type. */
#include "gf/redis.h"

#include <hiredis/hiredis.h>

static const redisReply *native(const struct gf_reply *reply)
{
    return (const redisReply *)(const void *)reply;
}

enum gf_reply_type gf_reply_type(const struct gf_reply *reply)
{
    switch (native(reply)->type) {
    case REDIS_REPLY_INTEGER:
        return GF_REPLY_INT;
    case REDIS_REPLY_STRING:
        return GF_REPLY_TEXT;
    case REDIS_REPLY_STATUS:
        return GF_REPLY_STATUS;
    case REDIS_REPLY_ARRAY:
        return GF_REPLY_ARRAY;
    case REDIS_REPLY_NIL:
        return GF_REPLY_NIL;
    default:
        return GF_REPLY_ERROR;
    }
}

int64_t gf_reply_int(const struct gf_reply *reply)
{
    GF_ASSERT(native(reply)->type == REDIS_REPLY_INTEGER);
    return native(reply)->integer;
}

const char *gf_reply_text(const struct gf_reply *reply, size_t *len_r)
{
    int type = native(reply)->type;

    GF_ASSERT(type == REDIS_REPLY_STRING || type == REDIS_REPLY_STATUS || type == REDIS_REPLY_ERROR);
    if (len_r)
        *len_r = (size_t)native(reply)->len;
    return native(reply)->str;
}

size_t gf_reply_count(const struct gf_reply *reply)
{
    GF_ASSERT(native(reply)->type == REDIS_REPLY_ARRAY);
    return native(reply)->elements;
}

const struct gf_reply *gf_reply_at(const struct gf_reply *reply, size_t index)
{
    GF_ASSERT(index < gf_reply_count(reply));
    return (const struct gf_reply *)(const void *)native(reply)->element[index];
}

void gf_reply_free(struct gf_reply **reply)
{
    if (!reply || !*reply)
        return;
    freeReplyObject(*reply);
    *reply = NULL;
}
