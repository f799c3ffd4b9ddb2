/* SPDX-License-Identifier: Apache-2.0 */
/* Cross-origin calls (fetch standard): web pages of the origins in opts.origins may call this server; any other page is
 * told nothing, and its browser keeps the answer from it. Tokens travel in a header and never in a cookie, so no
 * credentials are allowed. Thread: the loop's. Cannot fail. */
#include "internal.h"

/* The request's Origin when it is one of ours, else ptr == NULL. */
static struct gf_slice allowed_origin(const struct conn *conn)
{
    const char *list = conn->server->opts.origins;
    struct gf_slice origin;
    int count = 0;

    if (list == NULL || list[0] == '\0' || conn->req.received_us == 0) /* 0: what never became a request */
        return (struct gf_slice){NULL, 0};
    origin = gf_http_header(&conn->req, "origin", &count);
    while (count == 1 && *list != '\0') {
        size_t len = strcspn(list, ",");

        if (len == origin.len && len > 0 && memcmp(list, origin.ptr, len) == 0)
            return origin;
        list += len;
        list += strspn(list, ", ");
    }
    return (struct gf_slice){NULL, 0};
}

void cors_headers(const struct conn *conn, struct gf_buf *out)
{
    struct gf_slice origin = allowed_origin(conn);

    if (origin.ptr == NULL)
        return;
    gf_buf_adds(out, "Access-Control-Allow-Origin: ");
    gf_buf_add(out, origin.ptr, origin.len);
    gf_buf_adds(out, "\r\nVary: Origin\r\nAccess-Control-Expose-Headers: Idempotency-Replayed, Retry-After\r\n");
}

/* A browser asks before it sends: true when this was such a question, which is then answered. */
bool cors_preflight(struct conn *conn)
{
    static const struct gf_http_answer yes = {
        .status = 204,
        .headers = "Access-Control-Allow-Methods: GET, POST, PUT\r\n"
                   "Access-Control-Allow-Headers: authorization, content-type, idempotency-key, traceparent\r\n"
                   "Access-Control-Max-Age: 600\r\n",
    };

    if (conn->parser.ll.method != HTTP_OPTIONS || allowed_origin(conn).ptr == NULL ||
        gf_http_header(&conn->req, "access-control-request-method", NULL).ptr == NULL)
        return false;
    gf_http_respond(&conn->req, &yes);
    return true;
}
