/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* giftflow.notices (schemas/notice.schema.json): the IM frame of an outcome without its seq, which the router adds.
 * Key: r:<room> (5556, 5560) or u:<user> (5557-5559). Id: "<log>-<offset>:<code>", stable over repeats (G4). */
#include "gf/buf.h"
#include "gf/plan.h"

enum gf_notice_code {
    GF_NOTICE_GIFT = 5556,
    GF_NOTICE_GIFT_FAILED = 5557,
    GF_NOTICE_CREDITED = 5558,
    GF_NOTICE_CREDIT_FAILED = 5559,
};
#define GF_NOTICE_MAX 4096

/* Appends the notice's key and value. `name` and `effect_url` come from the catalogue at send time (may be empty). Frame:
 * {"id","ch","code","room_id","user_id","data":{...}}: room frames carry no balance; user frames go to that user alone. */
void gf_notice_key(const struct gf_trade *trade, struct gf_buf *key); /* the key alone */
void gf_notice_encode(int32_t log, const struct gf_trade *trade, const char *name, const char *effect_url,
                      struct gf_buf *key, struct gf_buf *value);

/* What router and gateway need of a notice, without parsing data. */
struct gf_notice_head {
    int code;
    bool room; /* ch */
    int64_t room_id, user_id;
};
/* Strict about our own format; false: not a notice of ours. */
GF_NODISCARD bool gf_notice_head(const char *value, size_t len, struct gf_notice_head *head_r);
/* Frame for clients: the notice's text with ,"seq":n inserted. */
void gf_notice_frame(const char *value, size_t len, int64_t seq, struct gf_buf *frame);
