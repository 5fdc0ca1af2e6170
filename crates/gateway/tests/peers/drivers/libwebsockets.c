/* The peer libwebsockets: one thread, one loop, which also reads the commands. `libwebsockets.py`
 * stands in front of it and speaks the lines of `peer.py`; the lines here are words, and what may
 * hold a space or a zero is in base64, or `-` for nothing.
 *
 *     in   open N HOST PORT PATH PROTOCOLS
 *          text N BASE64, binary N BASE64
 *          close N CODE BASE64
 *     out  version VERSION
 *          open N PROTOCOL
 *          text N BASE64, binary N BASE64
 *          closed N CODE BASE64
 *          failed N BASE64
 *
 * The library does not tell what its own Close was answered with: then CODE is 0. Compression is not
 * asked for: where it was, the library hands a message that came plain to its user again and again
 * (warmcat/libwebsockets, issues 2794 and 2800). */

#include <libwebsockets.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SOCKETS_MAX 4096
#define COMMAND_BYTES 65536

enum kind { TEXT, BINARY, CLOSE };

/* What waits until its socket can be written. */
struct order {
	struct order *next;
	enum kind kind;
	unsigned short code;
	size_t length;
	/* LWS_PRE bytes for the library, then the payload. */
	unsigned char bytes[];
};

struct socket {
	unsigned id;
	struct lws *wsi;
	struct order *first;
	struct order *last;
	/* The message that is coming. */
	unsigned char *message;
	size_t length;
	bool has_closed;
	unsigned short code;
	char reason[128];
};

static struct socket *sockets[SOCKETS_MAX];
static struct lws_context *context;
static struct lws_vhost *vhost;
static bool is_over;

static void *need(void *memory)
{
	if (!memory)
		abort();
	return memory;
}

/* Writes a line: a word, a number, and words of which the last one is encoded. */
static void say(const char *is, unsigned id, const char *middle, const void *bytes, size_t length)
{
	/* The library wants room for one more than it writes. */
	size_t size = (length + 2) / 3 * 4 + 2;
	char *encoded = need(malloc(size));

	if (lws_b64_encode_string(bytes, (int)length, encoded, (int)size) < 0)
		abort();
	printf("%s %u %s%s\n", is, id, middle, length ? encoded : "-");
	fflush(stdout);
	free(encoded);
}

static void push(struct socket *socket, enum kind kind, unsigned short code, const char *encoded)
{
	size_t size = strlen(encoded);
	struct order *order = need(calloc(1, sizeof(*order) + LWS_PRE + size + 1));

	order->kind = kind;
	order->code = code;
	if (strcmp(encoded, "-") != 0) {
		int length = lws_b64_decode_string_len(encoded, (int)size,
						       (char *)order->bytes + LWS_PRE, (int)size + 1);
		if (length < 0)
			abort();
		order->length = (size_t)length;
	}
	if (socket->last)
		socket->last->next = order;
	else
		socket->first = order;
	socket->last = order;
	if (socket->wsi)
		lws_callback_on_writable(socket->wsi);
}

/* Gives the library the next order; not 0 ends the socket. */
static int obey(struct socket *socket)
{
	struct order *order = socket->first;
	unsigned char *payload;
	int result = 0;

	if (!order)
		return 0;
	payload = order->bytes + LWS_PRE;
	socket->first = order->next;
	if (!socket->first)
		socket->last = NULL;
	if (order->kind == CLOSE) {
		socket->has_closed = true;
		lws_close_reason(socket->wsi, order->code, payload, order->length);
		result = -1;
	} else if (lws_write(socket->wsi, payload, order->length,
			     order->kind == TEXT ? LWS_WRITE_TEXT : LWS_WRITE_BINARY) < 0) {
		result = -1;
	} else {
		lws_callback_on_writable(socket->wsi);
	}
	free(order);
	return result;
}

/* Takes a piece of a message. */
static void take(struct socket *socket, const void *piece, size_t length)
{
	socket->message = need(realloc(socket->message, socket->length + length + 1));
	memcpy(socket->message + socket->length, piece, length);
	socket->length += length;
	if (!lws_is_final_fragment(socket->wsi))
		return;
	say(lws_frame_is_binary(socket->wsi) ? "binary" : "text", socket->id, "", socket->message,
	    socket->length);
	socket->length = 0;
}

/* Tells what the handshake was answered with. */
static void tell_open(struct socket *socket)
{
	char protocol[256] = "";

	lws_hdr_copy(socket->wsi, protocol, sizeof(protocol), WSI_TOKEN_PROTOCOL);
	say("open", socket->id, "", protocol, strlen(protocol));
}

static void tell_closed(struct socket *socket)
{
	char middle[8];

	snprintf(middle, sizeof(middle), "%u ", socket->code);
	say("closed", socket->id, middle, socket->reason, strlen(socket->reason));
	socket->wsi = NULL;
}

static int on_socket(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
		     size_t length)
{
	struct socket *socket = user;

	switch (reason) {
	case LWS_CALLBACK_CLIENT_CONNECTION_ERROR:
		say("failed", socket->id, "", in ? in : "", in ? length : 0);
		socket->wsi = NULL;
		break;
	case LWS_CALLBACK_CLIENT_FILTER_PRE_ESTABLISH:
		socket->wsi = wsi;
		tell_open(socket);
		break;
	case LWS_CALLBACK_CLIENT_ESTABLISHED:
		lws_callback_on_writable(wsi);
		break;
	case LWS_CALLBACK_CLIENT_RECEIVE:
		take(socket, in, length);
		break;
	case LWS_CALLBACK_CLIENT_WRITEABLE:
		return obey(socket);
	case LWS_CALLBACK_WS_PEER_INITIATED_CLOSE: {
		const unsigned char *bytes = in;

		socket->code = length < 2 ? 1005 : (unsigned short)(bytes[0] << 8 | bytes[1]);
		if (length > 2)
			memcpy(socket->reason, bytes + 2, length - 2);
		break;
	}
	case LWS_CALLBACK_CLIENT_CLOSED:
		if (!socket->code && !socket->has_closed)
			socket->code = 1006;
		tell_closed(socket);
		break;
	default:
		break;
	}
	return 0;
}

static void open_socket(unsigned id, char *words)
{
	struct lws_client_connect_info info = { 0 };
	char *rest, *host = strtok_r(words, " ", &rest), *port = strtok_r(NULL, " ", &rest);
	char *path = strtok_r(NULL, " ", &rest), *protocols = strtok_r(NULL, " ", &rest);
	char authority[256];

	snprintf(authority, sizeof(authority), "%s:%s", host, port);
	sockets[id] = need(calloc(1, sizeof(struct socket)));
	sockets[id]->id = id;
	info.context = context;
	info.vhost = vhost;
	info.address = host;
	info.port = atoi(port);
	info.path = path;
	info.host = authority;
	info.protocol = strcmp(protocols, "-") == 0 ? NULL : protocols;
	info.local_protocol_name = "peer";
	info.userdata = sockets[id];
	info.pwsi = &sockets[id]->wsi;
	lws_client_connect_via_info(&info);
}

static void take_command(char *line)
{
	char *rest, *word = strtok_r(line, " ", &rest);
	unsigned id = (unsigned)atoi(strtok_r(NULL, " ", &rest));

	if (id >= SOCKETS_MAX)
		abort();
	if (strcmp(word, "open") == 0) {
		open_socket(id, rest);
	} else if (strcmp(word, "close") == 0) {
		unsigned short code = (unsigned short)atoi(strtok_r(NULL, " ", &rest));

		push(sockets[id], CLOSE, code, rest);
	} else {
		push(sockets[id], strcmp(word, "text") == 0 ? TEXT : BINARY, 0, rest);
	}
}

/* Reads what is there of the input, and takes every line that is complete. */
static int read_commands(void)
{
	static char *line;
	static size_t length;
	char *end;
	ssize_t count;

	line = need(realloc(line, length + COMMAND_BYTES + 1));
	count = read(STDIN_FILENO, line + length, COMMAND_BYTES);
	if (count <= 0)
		return -1;
	length += (size_t)count;
	while ((end = memchr(line, '\n', length))) {
		size_t taken = (size_t)(end - line) + 1;

		*end = '\0';
		take_command(line);
		length -= taken;
		memmove(line, line + taken, length);
	}
	return 0;
}

static int on_input(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
		    size_t length)
{
	(void)wsi, (void)user, (void)in, (void)length;
	if (reason == LWS_CALLBACK_RAW_RX_FILE)
		return read_commands();
	if (reason == LWS_CALLBACK_RAW_CLOSE_FILE)
		is_over = true;
	return 0;
}

int main(void)
{
	static const struct lws_protocols protocols[] = {
		{ .name = "peer", .callback = on_socket, .rx_buffer_size = 65536 },
		{ .name = "input", .callback = on_input },
		{ 0 },
	};
	struct lws_context_creation_info info = { 0 };
	lws_sock_file_fd_type input = { .filefd = STDIN_FILENO };

	lws_set_log_level(LLL_ERR, NULL);
	info.port = CONTEXT_PORT_NO_LISTEN;
	info.protocols = protocols;
	info.options = LWS_SERVER_OPTION_EXPLICIT_VHOSTS;
	info.fd_limit_per_thread = SOCKETS_MAX;
	info.pt_serv_buf_size = 65536;
	context = need(lws_create_context(&info));
	vhost = need(lws_create_vhost(context, &info));
	need(lws_adopt_descriptor_vhost(vhost, LWS_ADOPT_RAW_FILE_DESC, input, "input", NULL));
	printf("version %s\n", lws_get_library_version());
	fflush(stdout);
	while (!is_over && lws_service(context, 0) >= 0)
		;
	lws_context_destroy(context);
	return 0;
}
