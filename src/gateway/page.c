/* SPDX-License-Identifier: Apache-2.0 */
/* GET /: the live-room page, one HTML file that the build puts into the program (page.html). Everything else on this port
 * is /v1/live. */
#include "gateway.h"

/* Its own script and style only; it connects to this gateway and to the API named in its address. */
#define PAGE_HEADERS                                                                                                   \
    "Content-Security-Policy: default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "             \
    "connect-src 'self' ws: wss: http: https:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n"        \
    "X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nCache-Control: no-cache\r\n"

static void refuse(struct gf_http_req *req, int status, const char *code, const char *detail, const char *headers)
{
    struct gf_http_problem problem = {.status = status, .code = code, .detail = detail, .headers = headers};

    gf_http_respond_problem(req, &problem);
}

void page_on_request(struct gf_http_req *req, void *ctx)
{
    struct gf_http_answer answer = {
        .status = 200,
        .content_type = "text/html; charset=utf-8",
        .headers = PAGE_HEADERS,
        .body = page_html,
        .body_len = page_html_len,
    };
    struct gf_slice path = gf_http_path(req);

    (void)ctx;
    if (gf_slice_is(path, "/v1/live"))
        refuse(req, 426, "bad_handshake", "this is a WebSocket: Upgrade and Connection headers are needed",
               "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
    else if (!gf_slice_is(path, "/"))
        refuse(req, 404, "not_found", "no such path", NULL);
    else if (gf_http_method(req) != GF_HTTP_GET)
        refuse(req, 405, "method_not_allowed", "only GET is served", "Allow: GET\r\n");
    else
        gf_http_respond(req, &answer);
}
