/* SPDX-License-Identifier: Apache-2.0 */
/* Reads IM frames in one pass without building a document: a room's viewers make the harness read each frame hundreds of
 * times, and it has to be cheaper than what it measures. Checks nesting and quoting, and the names it needs; no state. */
#include <string.h>

#include "gf/notice.h"
#include "gf/num.h"
#include "load.h"

#define DEPTH_MAX 16

struct scan {
    const char *at, *end;
};

static void skip_space(struct scan *scan)
{
    while (scan->at < scan->end && (*scan->at == ' ' || *scan->at == '\n' || *scan->at == '\r' || *scan->at == '\t'))
        scan->at++;
}

static bool take(struct scan *scan, char c)
{
    skip_space(scan);
    if (scan->at == scan->end || *scan->at != c)
        return false;
    scan->at++;
    return true;
}

/* The raw text between the quotes: what we compare never needs escapes. */
static bool take_string(struct scan *scan, struct gf_slice *text_r)
{
    const char *from;

    if (!take(scan, '"'))
        return false;
    from = scan->at;
    while (scan->at < scan->end && *scan->at != '"')
        scan->at += *scan->at == '\\' ? 2 : 1;
    if (scan->at >= scan->end)
        return false;
    *text_r = (struct gf_slice){from, (size_t)(scan->at - from)};
    scan->at++;
    return true;
}

static bool take_number(struct scan *scan, int64_t *value_r)
{
    const char *from;

    skip_space(scan);
    from = scan->at;
    while (scan->at < scan->end && (*scan->at == '-' || (*scan->at >= '0' && *scan->at <= '9')))
        scan->at++;
    return gf_num_parse_i64(from, (size_t)(scan->at - from), INT64_MIN, INT64_MAX, value_r);
}

/* Any value. Braces and brackets are counted, not matched by kind: our own writer made them. */
static bool skip_value(struct scan *scan)
{
    int depth = 0;

    do {
        struct gf_slice text;

        skip_space(scan);
        if (scan->at == scan->end)
            return false;
        if (*scan->at == '"') {
            if (!take_string(scan, &text))
                return false;
        } else if (*scan->at == '{' || *scan->at == '[') {
            scan->at++;
            if (++depth > DEPTH_MAX)
                return false;
        } else if (*scan->at == '}' || *scan->at == ']') {
            scan->at++;
            if (--depth < 0)
                return false;
        } else if (depth > 0 && (*scan->at == ',' || *scan->at == ':')) {
            scan->at++;
        } else {
            const char *from = scan->at;

            while (scan->at < scan->end && !strchr(" \t\r\n,:{}[]\"", *scan->at))
                scan->at++;
            if (scan->at == from)
                return false;
        }
    } while (depth > 0);
    return true;
}

typedef bool (*member_fn)(struct scan *scan, struct gf_slice key, struct load_frame *frame);

static bool read_object(struct scan *scan, member_fn on_member, struct load_frame *frame)
{
    struct gf_slice key;

    if (!take(scan, '{'))
        return false;
    if (take(scan, '}'))
        return true;
    do {
        if (!take_string(scan, &key) || !take(scan, ':') || !on_member(scan, key, frame))
            return false;
    } while (take(scan, ','));
    return take(scan, '}');
}

static bool read_data_member(struct scan *scan, struct gf_slice key, struct load_frame *frame)
{
    if (gf_slice_is(key, "request_id"))
        return take_string(scan, &frame->request_id);
    if (gf_slice_is(key, "code"))
        return take_string(scan, &frame->reason);
    return skip_value(scan);
}

static bool read_member(struct scan *scan, struct gf_slice key, struct load_frame *frame)
{
    struct gf_slice text;

    if (gf_slice_is(key, "id"))
        return take_string(scan, &frame->id);
    if (gf_slice_is(key, "room_id"))
        return take_number(scan, &frame->room_id);
    if (gf_slice_is(key, "user_id"))
        return take_number(scan, &frame->user_id);
    if (gf_slice_is(key, "data"))
        return read_object(scan, read_data_member, frame);
    if (gf_slice_is(key, "code")) {
        skip_space(scan);
        if (scan->at < scan->end && *scan->at == '"')
            return take_string(scan, &text); /* history_lost */
        return take_number(scan, &frame->code);
    }
    if (gf_slice_is(key, "ch")) {
        if (!take_string(scan, &text))
            return false;
        frame->room = gf_slice_is(text, "room");
        return frame->room || gf_slice_is(text, "user");
    }
    return skip_value(scan);
}

static bool read_frame(struct scan *scan, load_frame_fn on_frame, void *ctx)
{
    struct load_frame frame = {0};

    if (!read_object(scan, read_member, &frame))
        return false;
    if ((frame.code == GF_NOTICE_GIFT || frame.code == GF_NOTICE_GIFT_FAILED) &&
        (frame.id.len == 0 || frame.request_id.len != GF_UUID_TEXT))
        return false;
    on_frame(ctx, &frame);
    return true;
}

bool load_frames_read(const char *text, size_t len, load_frame_fn on_frame, void *ctx)
{
    struct scan scan = {text, text + len};
    int frames = 0;

    if (take(&scan, '[')) {
        do {
            if (++frames > LOAD_MESSAGE_FRAMES || !read_frame(&scan, on_frame, ctx))
                return false;
        } while (take(&scan, ','));
        if (!take(&scan, ']'))
            return false;
    } else if (!read_frame(&scan, on_frame, ctx)) {
        return false;
    }
    skip_space(&scan);
    return scan.at == scan.end;
}
