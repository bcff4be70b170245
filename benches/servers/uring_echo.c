/* A plain echo server on io_uring: each connection has one receive or one send in flight.
 *
 * Usage: uring_echo tcp HOST PORT
 */
#include <arpa/inet.h>
#include <errno.h>
#include <liburing.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BUFFER_SIZE = 64 * 1024, BACKLOG = 1024, ENTRIES = 4096, BATCH = 256 };

struct connection {
    int socket;
    /* Received bytes, and how many of them have been sent. While `received` is 0, a receive is in flight. */
    int received;
    int sent;
    /* At the end: as long as nothing is received, its pages take no memory. */
    char buffer[BUFFER_SIZE];
};

static struct io_uring ring;

static void fail(const char *what, int error) {
    fprintf(stderr, "%s: %s\n", what, strerror(error));
    exit(1);
}

/* The queue cannot be full: a batch of completions adds at most two entries for each, and is submitted. */
static struct io_uring_sqe *next_entry(void) {
    struct io_uring_sqe *entry = io_uring_get_sqe(&ring);
    if (entry == NULL) {
        fail("io_uring_get_sqe", ENOBUFS);
    }
    return entry;
}

static void start_accept(int listener) {
    struct io_uring_sqe *entry = next_entry();
    io_uring_prep_accept(entry, listener, NULL, NULL, 0);
    io_uring_sqe_set_data(entry, NULL);
}

static void start_receive(struct connection *connection) {
    connection->received = connection->sent = 0;
    struct io_uring_sqe *entry = next_entry();
    io_uring_prep_recv(entry, connection->socket, connection->buffer, BUFFER_SIZE, 0);
    io_uring_sqe_set_data(entry, connection);
}

static void start_send(struct connection *connection) {
    struct io_uring_sqe *entry = next_entry();
    const char *rest = connection->buffer + connection->sent;
    size_t count = (size_t)(connection->received - connection->sent);
    io_uring_prep_send(entry, connection->socket, rest, count, MSG_NOSIGNAL);
    io_uring_sqe_set_data(entry, connection);
}

static void on_accepted(int listener, int socket) {
    start_accept(listener);
    struct connection *connection = socket < 0 ? NULL : malloc(sizeof *connection);
    if (connection != NULL) {
        connection->socket = socket;
        start_receive(connection);
    } else if (socket >= 0) {
        close(socket);
    }
}

/* `result` is that of the receive or send in flight: the number of bytes, or a negative error. */
static void on_completed(struct connection *connection, int result) {
    if (result <= 0) { /* the end of the stream, or an error */
        close(connection->socket);
        free(connection);
        return;
    }
    if (connection->received == 0) {
        connection->received = result;
    } else {
        connection->sent += result;
    }
    if (connection->sent < connection->received) {
        start_send(connection);
    } else {
        start_receive(connection);
    }
}

static int bind_listener(const char *host, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    int on = 1;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    /* Accepted sockets inherit TCP_NODELAY on Linux. */
    if (listener < 0 || inet_pton(AF_INET, host, &address.sin_addr) != 1 ||
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0 ||
        bind(listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(listener, BACKLOG) < 0) {
        fail("listen", errno);
    }
    return listener;
}

static void run(int listener) {
    struct io_uring_cqe *completions[BATCH];
    start_accept(listener);
    for (;;) {
        int result = io_uring_submit_and_wait(&ring, 1);
        if (result < 0 && result != -EINTR && result != -EBUSY) {
            fail("io_uring_submit_and_wait", -result);
        }
        unsigned count = io_uring_peek_batch_cqe(&ring, completions, BATCH);
        for (unsigned i = 0; i < count; i++) {
            struct connection *connection = io_uring_cqe_get_data(completions[i]);
            if (connection == NULL) {
                on_accepted(listener, completions[i]->res);
            } else {
                on_completed(connection, completions[i]->res);
            }
        }
        io_uring_cq_advance(&ring, count);
    }
}

int main(int argc, char **argv) {
    if (argc != 4 || strcmp(argv[1], "tcp") != 0) {
        fprintf(stderr, "usage: uring_echo tcp HOST PORT\n");
        return 2;
    }
    int result = io_uring_queue_init(ENTRIES, &ring, 0);
    if (result < 0) {
        fail("io_uring_queue_init", -result);
    }
    run(bind_listener(argv[2], atoi(argv[3])));
}
