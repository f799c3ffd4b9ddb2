/* SPDX-License-Identifier: Apache-2.0 */
/* Encoded frames. One allocation each, reference-counted, shared by all connections that send them (a server's frames are
 * not masked, so they are the same bytes for everyone). Threads: the loop's; counts are not atomic. */
#include <stdlib.h>

#include "conn.h"
#include "gf/clock.h"

#define FIN 0x80
#define MASK_BIT 0x80
#define CONTROL_MAX 125

static struct gf_ws_frame *frame_alloc(size_t len)
{
    struct gf_ws_frame *frame = gf_xmalloc(sizeof(*frame) + len);

    frame->refs = 1;
    frame->messages = 0;
    frame->len = len;
    return frame;
}

static size_t put_head(char *out, int opcode, size_t len)
{
    int bytes = len < 126 ? 0 : len <= UINT16_MAX ? 2 : 8;

    out[0] = (char)(FIN | opcode);
    out[1] = (char)(bytes == 0 ? len : bytes == 2 ? 126 : 127);
    for (int i = 0; i < bytes; i++)
        out[2 + i] = (char)(len >> (8 * (bytes - 1 - i)));
    return 2 + (size_t)bytes;
}

struct gf_ws_frame *gf_ws_frame_text(const char *text, size_t len, int messages)
{
    char head[10];
    size_t head_len = put_head(head, WSLAY_TEXT_FRAME, len);
    struct gf_ws_frame *frame = frame_alloc(head_len + len);

    memcpy(frame->data, head, head_len);
    memcpy(frame->data + head_len, text, len);
    frame->messages = messages;
    return frame;
}

struct gf_ws_frame *gf_ws_frame_raw(const void *bytes, size_t len)
{
    struct gf_ws_frame *frame = frame_alloc(len);

    memcpy(frame->data, bytes, len);
    return frame;
}

struct gf_ws_frame *gf_ws_frame_control(int opcode, const void *payload, size_t len, bool mask)
{
    const char *from = payload;
    struct gf_ws_frame *frame;
    char *to;
    uint8_t key[4] = {0};

    GF_ASSERT(len <= CONTROL_MAX);
    frame = frame_alloc(2 + (mask ? sizeof(key) : 0) + len);
    to = frame->data + put_head(frame->data, opcode, len);
    if (mask) {
        gf_random_bytes(key, sizeof(key));
        frame->data[1] = (char)(MASK_BIT | (int)len);
        memcpy(to, key, sizeof(key));
        to += sizeof(key);
    }
    for (size_t i = 0; i < len; i++)
        to[i] = (char)(from[i] ^ key[i & 3]);
    return frame;
}

void gf_ws_frame_release(struct gf_ws_frame **frame)
{
    if (*frame == NULL)
        return;
    GF_ASSERT((*frame)->refs > 0);
    if (--(*frame)->refs == 0)
        free(*frame);
    *frame = NULL;
}
