/* SPDX-License-Identifier: Apache-2.0 */
/* The client's side of the opening handshake, and when it acknowledges, for the load harness: numeric addresses (or localhost)
 * only, one deadline for connecting and the answer. */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>

#include "conn.h"
#include "gf/clock.h"
#include "gf/crypto.h"

#define HANDSHAKE_MS 10000
#define ANSWER_MAX 8192
#define REQUEST_MAX 16384
#define MESSAGE_MAX (1024 * 1024)

static void add_key(struct ws_client *client)
{
    char key[GF_BASE64_SIZE(16)], text[sizeof(key) + sizeof(WS_GUID)];
    uint8_t bytes[16], digest[20];
    size_t len;

    gf_random_bytes(bytes, sizeof(bytes));
    len = gf_base64_encode(bytes, sizeof(bytes), key);
    gf_buf_addf(&client->request, "Sec-WebSocket-Key: %s\r\n", key);
    memcpy(text, key, len);
    memcpy(text + len, WS_GUID, sizeof(WS_GUID));
    gf_sha1(text, len + sizeof(WS_GUID) - 1, digest);
    gf_base64_encode(digest, sizeof(digest), client->accept);
}

/* Value of a header of the answer; true if it equals `value`. */
static bool answer_has(const struct ws_client *client, const char *name, const char *value)
{
    const char *line = strstr(client->answer.data, "\r\n");
    size_t name_len = strlen(name), value_len = strlen(value);

    while (line != NULL && line[2] != '\r') {
        const char *end = strstr(line + 2, "\r\n"), *at = line + 2 + name_len;

        if (end > at && strncasecmp(line + 2, name, name_len) == 0 && *at == ':') {
            for (at++; *at == ' '; at++)
                ;
            return (size_t)(end - at) == value_len && strncmp(at, value, value_len) == 0;
        }
        line = end;
    }
    return false;
}

void gf_ws_client_answer(struct gf_ws *ws, const char *bytes, size_t len)
{
    struct ws_client *client = ws->client;
    const char *end;
    size_t head_len;

    gf_buf_add(&client->answer, bytes, len);
    GF_ASSERT(gf_buf_ok(&client->answer)); /* it holds ANSWER_MAX and one read more */
    end = strstr(client->answer.data, "\r\n\r\n");
    if (end == NULL) {
        if (client->answer.len > ANSWER_MAX)
            gf_ws_conn_kill(ws);
        return;
    }
    if (strncmp(client->answer.data, "HTTP/1.1 101 ", 13) != 0 ||
        !answer_has(client, "sec-websocket-accept", client->accept)) {
        gf_ws_conn_kill(ws);
        return;
    }
    head_len = (size_t)(end + 4 - client->answer.data);
    ws->state = WS_OPEN;
    gf_ws_conn_start_heartbeat(ws);
    if (client->on_open != NULL)
        client->on_open(ws->handler->ctx, ws);
    if (client->answer.len > head_len)
        gf_ws_conn_feed(ws, client->answer.data + head_len, client->answer.len - head_len);
    gf_buf_free(&client->answer);
    gf_buf_free(&client->request);
}

/* A client that only listens acknowledges each frame as it reads it: a packet a frame, a sixth of the harness's processor time
 * where ten screens see each gift. Here acknowledgements wait, as in a dialogue, for a second segment or for 40 ms, after
 * which the kernel forgets the wish: so it is said at each read. */
void gf_ws_client_delay_acks(struct gf_ws *ws)
{
    static const int off = 0;
    uv_os_fd_t fd;

    if (uv_fileno((uv_handle_t *)ws->tcp, &fd) == 0)
        (void)setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &off, sizeof(off)); /* only spares */
}

static void on_connected(uv_connect_t *connect, int status)
{
    struct gf_ws *ws = connect->data;
    struct ws_client *client = ws->client;

    if (ws->state == WS_GONE)
        return;
    if (status < 0 || gf_ws_conn_start_reading(ws) != 0) {
        gf_ws_conn_kill(ws);
        return;
    }
    gf_ws_conn_push(ws, gf_ws_frame_raw(client->request.data, client->request.len));
}

static bool resolve(const char *host, int port, struct sockaddr_storage *addr_r)
{
    if (strcmp(host, "localhost") == 0)
        host = "127.0.0.1";
    return uv_ip4_addr(host, port, (struct sockaddr_in *)addr_r) == 0 ||
           uv_ip6_addr(host, port, (struct sockaddr_in6 *)addr_r) == 0;
}

struct gf_ws *gf_ws_connect(struct gf_loop *loop, const struct gf_ws_client_opts *opts)
{
    struct ws_client *client = gf_xcalloc(1, sizeof(*client));
    uv_tcp_t *tcp = gf_xmalloc(sizeof(*tcp));
    struct sockaddr_storage addr;
    struct gf_ws *ws;

    client->handler = opts->handler;
    if (client->handler.message_max == 0)
        client->handler.message_max = MESSAGE_MAX;
    client->on_open = opts->on_open;
    gf_buf_init(&client->answer, ANSWER_MAX + WS_READ_MAX);
    gf_buf_init(&client->request, REQUEST_MAX);
    gf_buf_addf(&client->request, "GET %s HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Version: 13\r\n", opts->path, opts->host, opts->port);
    if (opts->protocols != NULL)
        gf_buf_addf(&client->request, "Sec-WebSocket-Protocol: %s\r\n", opts->protocols);
    add_key(client);
    gf_buf_adds(&client->request, "\r\n");
    GF_ASSERT(gf_buf_ok(&client->request));

    GF_ASSERT(uv_tcp_init(gf_loop_native(loop), tcp) == 0);
    ws = gf_ws_conn_create(tcp, &client->handler, WS_CONNECTING);
    ws->client = client;
    client->connect.data = ws;
    gf_ws_conn_set_deadline(ws, HANDSHAKE_MS);
    if (!resolve(opts->host, opts->port, &addr) ||
        uv_tcp_connect(&client->connect, tcp, (const struct sockaddr *)&addr, on_connected) != 0)
        gf_ws_conn_kill(ws);
    return ws;
}
