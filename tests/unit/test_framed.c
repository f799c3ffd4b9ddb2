/* SPDX-License-Identifier: Apache-2.0 */
/* Length-prefixed messages: both ends on one loop, and a raw socket where an end must misbehave. Also the link messages that
 * travel in them, and the hash table behind room sets. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "gf/buf.h"
#include "gf/framed.h"
#include "gf/link.h"
#include "gf/map.h"

#define MESSAGE_MAX 200000
#define UNSENT_MAX 1000000
#define DEADLINE_MS 20000

static bool named; /* both.test is 127.0.0.1 and ::1 */

struct end {
    struct test *test;
    struct gf_framed *peer;
    int opened, closed;
    struct gf_buf heard; /* message lengths and bytes, one after another */
    int messages;
    const char *reason;
};

struct test {
    struct gf_loop *loop;
    struct gf_framed_listener *listener;
    struct gf_timer *deadline;
    struct end server, client;
    bool echo;
    int stop_after; /* client messages */
    int give_up;    /* the client closes in so many turns */
    bool late;
};

static void on_open(void *ctx, struct gf_framed *peer)
{
    struct end *end = ctx;

    end->peer = peer;
    end->opened++;
    gf_framed_set_user(peer, end);
}

static void on_message(void *ctx, struct gf_framed *peer, const char *bytes, size_t len)
{
    struct end *end = ctx;

    assert_ptr_equal(gf_framed_user(peer), end);
    end->messages++;
    gf_buf_addf(&end->heard, "%zu:", len);
    gf_buf_add(&end->heard, bytes, len);
    if (end == &end->test->server && end->test->echo)
        assert_true(gf_framed_send(peer, bytes, len));
    if (end->messages == end->test->stop_after)
        gf_loop_stop(end->test->loop);
}

static void on_close(void *ctx, struct gf_framed *peer, const char *reason)
{
    struct end *end = ctx;

    assert_true(end->peer == peer || end->peer == NULL);
    end->peer = NULL;
    end->closed++;
    end->reason = reason;
    gf_loop_stop(end->test->loop);
}

static void on_deadline(void *ctx)
{
    struct test *test = ctx;

    test->late = true;
    gf_loop_stop(test->loop);
}

static struct gf_framed_handler handler_of(struct end *end)
{
    return (struct gf_framed_handler){.on_open = on_open, .on_message = on_message, .on_close = on_close, .ctx = end,
                                      .message_max = MESSAGE_MAX, .unsent_max = UNSENT_MAX};
}

static int setup(void **state)
{
    struct test *test = calloc(1, sizeof(*test));
    struct gf_framed_handler handler;
    struct gf_error error;

    assert_non_null(test);
    test->loop = gf_loop_create();
    test->server.test = test->client.test = test;
    gf_buf_init(&test->server.heard, 50000000);
    gf_buf_init(&test->client.heard, 50000000);
    handler = handler_of(&test->server);
    assert_int_equal(gf_framed_listen(test->loop, "127.0.0.1", 0, &handler, &test->listener, &error), GF_OK);
    test->deadline = gf_timer_start(test->loop, DEADLINE_MS, 0, on_deadline, test);
    *state = test;
    return 0;
}

static int teardown(void **state)
{
    struct test *test = *state;

    if (test->client.peer != NULL)
        gf_framed_close(test->client.peer, "over");
    if (test->server.peer != NULL)
        gf_framed_close(test->server.peer, "over");
    gf_framed_listener_close(&test->listener);
    gf_timer_close(&test->deadline);
    gf_loop_destroy(&test->loop);
    gf_buf_free(&test->server.heard);
    gf_buf_free(&test->client.heard);
    free(test);
    return 0;
}

static void run(struct test *test)
{
    gf_loop_run(test->loop);
    assert_false(test->late);
}

static void connect_client(struct test *test, const char *host)
{
    struct gf_framed_handler handler = handler_of(&test->client);

    test->client.peer = gf_framed_connect(test->loop, host, gf_framed_port(test->listener), &handler);
    assert_non_null(test->client.peer);
}

static int raw_client(const struct test *test)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)gf_framed_port(test->listener))};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
    return fd;
}

static void start_echo(void *ctx)
{
    struct test *test = ctx;
    static char big[MESSAGE_MAX];

    if (test->client.opened == 0 || test->client.messages > 0 || test->echo)
        return;
    test->echo = true;
    memset(big, 'b', sizeof(big));
    assert_true(gf_framed_send(test->client.peer, "hello", 5));
    assert_true(gf_framed_send(test->client.peer, "", 0));
    for (int i = 0; i < 4; i++) /* far more than a socket takes at once */
        assert_true(gf_framed_send(test->client.peer, big, sizeof(big)));
    assert_true(gf_framed_send(test->client.peer, "last", 4));
}

static void messages_go_both_ways_whole_and_in_order(void **state)
{
    struct test *test = *state;

    connect_client(test, "localhost"); /* a name: it goes through the resolver */
    gf_loop_on_turn(test->loop, start_echo, test);
    test->stop_after = 0;
    while (test->client.messages < 7 && !test->late) {
        test->stop_after = test->client.messages + 1;
        run(test);
    }
    assert_int_equal(test->server.messages, 7);
    assert_int_equal(test->server.heard.len, test->client.heard.len);
    assert_memory_equal(test->server.heard.data, test->client.heard.data, test->client.heard.len);
    assert_memory_equal(test->client.heard.data, "5:hello0:200000:bbb", 19);
    assert_memory_equal(test->client.heard.data + test->client.heard.len - 6, "4:last", 6);
}

static void a_message_may_be_cut_at_every_byte(void **state)
{
    static const char bytes[] = "\0\0\0\3abc\0\0\0\0\0\0\0\2de";
    struct test *test = *state;
    int fd = raw_client(test);

    for (size_t i = 0; i < sizeof(bytes) - 1; i++) {
        struct gf_timer *timer = gf_timer_start(test->loop, 1, 0, (gf_loop_fn)gf_loop_stop, test->loop);

        assert_int_equal(send(fd, bytes + i, 1, 0), 1);
        run(test); /* it reads, or comes back after a millisecond */
        gf_timer_close(&timer);
    }
    for (test->stop_after = 3; test->server.messages < 3 && !test->late;)
        run(test);
    assert_string_equal(test->server.heard.data, "3:abc0:2:de");
    close(fd);
    run(test);
    assert_int_equal(test->server.closed, 1);
    assert_string_equal(test->server.reason, "closed by the other side");
}

static void a_message_that_is_too_long_closes_the_peer(void **state)
{
    struct test *test = *state;
    uint32_t prefix = htonl(MESSAGE_MAX + 1);
    int fd = raw_client(test);
    char byte;

    assert_int_equal(send(fd, &prefix, sizeof(prefix), 0), sizeof(prefix));
    run(test);
    assert_int_equal(test->server.closed, 1);
    assert_int_equal(test->server.messages, 0);
    assert_string_equal(test->server.reason, "message too long");
    assert_true(recv(fd, &byte, 1, 0) <= 0);
    close(fd);
}

static void flood_peer(void *ctx)
{
    struct test *test = ctx;
    static char block[MESSAGE_MAX];

    for (int i = 0; i < 100 && test->server.peer != NULL; i++)
        if (!gf_framed_send(test->server.peer, block, sizeof(block)))
            return;
}

static void a_peer_that_does_not_read_is_closed(void **state)
{
    struct test *test = *state;
    int fd = raw_client(test);

    gf_loop_on_turn(test->loop, flood_peer, test);
    run(test);
    assert_int_equal(test->server.closed, 1);
    assert_string_equal(test->server.reason, "too much unsent");
    close(fd);
}

static void nobody_listening_and_unknown_names_end_in_on_close(void **state)
{
    struct test *test = *state;
    struct gf_framed_handler handler = handler_of(&test->client);
    int port = gf_framed_port(test->listener);

    gf_framed_listener_close(&test->listener);
    test->client.peer = gf_framed_connect(test->loop, "127.0.0.1", port, &handler);
    run(test);
    assert_int_equal(test->client.opened, 0);
    assert_int_equal(test->client.closed, 1);
    test->client.peer = gf_framed_connect(test->loop, "no such name", port, &handler);
    run(test);
    assert_int_equal(test->client.closed, 2);
    test->client.peer = gf_framed_connect(test->loop, "localhost", port, &handler);
    gf_framed_close(test->client.peer, "closed while its name is looked up");
    run(test);
    assert_int_equal(test->client.closed, 3);
}

/* A name with two addresses: /etc/hosts as this process alone sees it. Before any thread starts. */
static int name_two_addresses(void **state)
{
    static const char text[] = "127.0.0.1 localhost both.test\n::1 both.test\n";
    char path[] = "/tmp/gf-hosts-XXXXXX";
    int fd = mkstemp(path);

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, sizeof(text) - 1), sizeof(text) - 1);
    close(fd);
    named = unshare(geteuid() == 0 ? CLONE_NEWNS : CLONE_NEWUSER | CLONE_NEWNS) == 0 &&
            mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 && mount(path, "/etc/hosts", NULL, MS_BIND, NULL) == 0;
    unlink(path);
    return 0;
}

static void close_again(void *ctx, struct gf_framed *peer)
{
    struct end *end = ctx;

    end->opened++;
    gf_framed_close(peer, "it was open");
}

static void give_up(void *ctx)
{
    struct test *test = ctx;

    if (test->give_up > 0 && --test->give_up == 0 && test->client.peer != NULL)
        gf_framed_close(test->client.peer, "given up");
}

/* Returns why it ended. */
static const char *connect_by_name(struct test *test, int port)
{
    struct gf_framed_handler handler = handler_of(&test->client);

    handler.on_open = close_again;
    test->client.closed = 0;
    test->client.peer = gf_framed_connect(test->loop, "both.test", port, &handler);
    while (test->client.closed == 0)
        run(test);
    return test->client.reason;
}

static void a_name_is_tried_at_each_of_its_addresses(void **state)
{
    struct test *test = *state;
    struct gf_framed_handler handler = handler_of(&test->server);
    struct gf_framed_listener *second = NULL;
    struct gf_error error;
    int port;

    if (!named || gf_framed_listen(test->loop, "::1", 0, &handler, &second, &error) != GF_OK)
        skip(); /* no right to a namespace, or no IPv6 */
    port = gf_framed_port(second);
    assert_string_equal(connect_by_name(test, gf_framed_port(test->listener)), "it was open");
    assert_string_equal(connect_by_name(test, port), "it was open");
    gf_framed_listener_close(&second);
    assert_string_equal(connect_by_name(test, port), "connection refused");
    gf_loop_on_turn(test->loop, give_up, test);
    for (int turns = 1; turns < 8; turns++) { /* during the look-up, an attempt, or between them */
        test->give_up = turns;
        (void)connect_by_name(test, port);
    }
    assert_int_equal(test->client.opened, 2);
}

static void a_busy_port_is_an_error(void **state)
{
    struct test *test = *state;
    struct gf_framed_handler handler = handler_of(&test->server);
    struct gf_framed_listener *second = NULL;
    struct gf_error error;

    assert_int_equal(gf_framed_listen(test->loop, "127.0.0.1", gf_framed_port(test->listener), &handler, &second, &error),
                     GF_FATAL);
    assert_int_equal(gf_framed_listen(test->loop, "not an address", 0, &handler, &second, &error), GF_FATAL);
    assert_null(second);
}

/* ---- link messages */

static const char id_text[] = "0123456789abcdef";

static void link_messages_come_back_as_they_were(void **state)
{
    const struct gf_link_entry entries[] = {
        {GF_LINK_TO_ROOM, 7, 1, (INT64_C(3) << 40) + 5, 1700000000000, "{\"a\":1}", 7},
        {GF_LINK_TO_USER_IN_ROOM, GF_ID_MAX, GF_ID_MAX, INT64_MAX, 0, "x", 1},
        {GF_LINK_TO_USER, 0, 9, 0, 0, "yy", 2},
    };
    struct gf_link_cursor cursor;
    struct gf_link_entry entry;
    char id[GF_LINK_ID + 1];
    uint64_t number = 0;
    struct gf_buf out;
    int64_t room;
    bool join;

    (void)state;
    gf_buf_init(&out, 10000);
    gf_link_add_hello(&out, id_text);
    assert_true(gf_link_read_hello(out.data, out.len, id));
    assert_string_equal(id, id_text);
    assert_false(gf_link_read_ack(out.data, out.len, &number));
    gf_buf_reset(&out);
    gf_link_add_ack(&out, UINT64_MAX);
    assert_true(gf_link_read_ack(out.data, out.len, &number));
    assert_true(number == UINT64_MAX);
    gf_buf_reset(&out);
    gf_link_begin_changes(&out);
    gf_link_add_change(&out, true, 1);
    gf_link_add_change(&out, false, GF_ID_MAX);
    assert_true(gf_link_read_changes(out.data, out.len, &cursor));
    assert_true(gf_link_next_change(&cursor, &join, &room) && join && room == 1);
    assert_true(gf_link_next_change(&cursor, &join, &room) && !join && room == GF_ID_MAX);
    assert_false(gf_link_next_change(&cursor, &join, &room));
    assert_false(cursor.bad);
    gf_buf_reset(&out);
    gf_link_begin_batch(&out, 42);
    for (size_t i = 0; i < GF_COUNT(entries); i++)
        gf_link_add_entry(&out, &entries[i]);
    assert_true(gf_link_read_batch(out.data, out.len, &number, &cursor));
    assert_true(number == 42);
    for (size_t i = 0; i < GF_COUNT(entries); i++) {
        assert_true(gf_link_next_entry(&cursor, &entry));
        assert_int_equal(entry.to, entries[i].to);
        assert_int_equal(entry.room_id, entries[i].room_id);
        assert_int_equal(entry.user_id, entries[i].user_id);
        assert_int_equal(entry.seq, entries[i].seq);
        assert_int_equal(entry.ts_ms, entries[i].ts_ms);
        assert_int_equal(entry.len, entries[i].len);
        assert_memory_equal(entry.text, entries[i].text, entry.len);
    }
    assert_false(gf_link_next_entry(&cursor, &entry));
    assert_false(cursor.bad);
    gf_buf_free(&out);
}

/* Every shorter prefix is either malformed or ends at a border between entries; nothing is read past the end (asan). */
static void cut_link_messages_are_malformed(void **state)
{
    const struct gf_link_entry sent = {GF_LINK_TO_ROOM, 7, 1, 5, 6, "{}", 2};
    struct gf_link_cursor cursor;
    struct gf_link_entry entry;
    uint64_t number;
    struct gf_buf out;
    size_t one;

    (void)state;
    gf_buf_init(&out, 1000);
    gf_link_begin_batch(&out, 1);
    one = out.len;
    gf_link_add_entry(&out, &sent);
    for (size_t len = 0; len < out.len; len++) {
        char *copy = malloc(len + 1);

        assert_non_null(copy);
        memcpy(copy, out.data, len);
        if (gf_link_read_batch(copy, len, &number, &cursor)) {
            assert_true(len >= one);
            assert_false(gf_link_next_entry(&cursor, &entry));
            assert_true(cursor.bad == (len > one));
        } else {
            assert_true(len < one);
        }
        free(copy);
    }
    out.data[one] = 3; /* an address that does not exist */
    assert_true(gf_link_read_batch(out.data, out.len, &number, &cursor));
    assert_false(gf_link_next_entry(&cursor, &entry));
    assert_true(cursor.bad);
    gf_buf_free(&out);
}

/* ---- the hash table */

struct item {
    struct gf_map_node node;
    int value;
};

static void count_item(void *ctx, struct gf_map_node *node)
{
    *(int *)ctx += GF_CONTAINER(node, struct item, node)->value;
}

static void the_map_finds_what_was_added_and_not_removed(void **state)
{
    static struct item items[1000];
    struct gf_map map = {0};
    int sum = 0;

    (void)state;
    assert_null(gf_map_find(&map, 1));
    for (int i = 0; i < 1000; i++) {
        items[i].value = 1;
        gf_map_add(&map, &items[i].node, (uint64_t)(i / 2)); /* each key twice */
    }
    for (int i = 0; i < 1000; i += 4)
        gf_map_remove(&map, &items[i].node);
    for (int key = 0; key < 500; key++) {
        struct gf_map_node *node = gf_map_find(&map, (uint64_t)key);
        int found = 0;

        for (; node != NULL; node = gf_map_next(node))
            found++;
        assert_int_equal(found, key % 2 == 0 ? 1 : 2);
    }
    assert_null(gf_map_find(&map, 500));
    gf_map_each(&map, count_item, &sum);
    assert_int_equal(sum, 750);
    gf_map_free(&map);
    assert_null(gf_map_find(&map, 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(messages_go_both_ways_whole_and_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(a_message_may_be_cut_at_every_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(a_message_that_is_too_long_closes_the_peer, setup, teardown),
        cmocka_unit_test_setup_teardown(a_peer_that_does_not_read_is_closed, setup, teardown),
        cmocka_unit_test_setup_teardown(nobody_listening_and_unknown_names_end_in_on_close, setup, teardown),
        cmocka_unit_test_setup_teardown(a_name_is_tried_at_each_of_its_addresses, setup, teardown),
        cmocka_unit_test_setup_teardown(a_busy_port_is_an_error, setup, teardown),
        cmocka_unit_test(link_messages_come_back_as_they_were),
        cmocka_unit_test(cut_link_messages_are_malformed),
        cmocka_unit_test(the_map_finds_what_was_added_and_not_removed),
    };

    return cmocka_run_group_tests(tests, name_two_addresses, NULL);
}
