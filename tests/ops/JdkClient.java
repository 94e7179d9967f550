import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/** Requests of the JDK's default client, which requests an upgrade to HTTP/2 on each new connection. See jdk_client.py. */
public class JdkClient {
    private static final String CHAT = "{\"messages\": [{\"role\": \"user\", \"content\": \"GET / HTTP/1.1\"}]%s}";

    public static void main(String[] args) throws Exception {
        String url = args[0];
        HttpClient client = HttpClient.newHttpClient();
        for (int round = 0; round < 3; round++) {
            checkWhole(client.send(chat(url, ""), BodyHandlers.ofString()));
            checkStream(client.send(chat(url, ", \"stream\": true"), BodyHandlers.ofLines()));
            check(client.send(get(url), BodyHandlers.ofString()), 200);
            check(client.send(chat(url, ", \"n\": \"x\""), BodyHandlers.ofString()), 400);
        }
        List<CompletableFuture<Void>> futures = IntStream.range(0, 32)
            .mapToObj(k -> k % 2 == 0
                ? client.sendAsync(chat(url, ""), BodyHandlers.ofString()).thenAccept(JdkClient::checkWhole)
                : client.sendAsync(chat(url, ", \"stream\": true"), BodyHandlers.ofLines()).thenAccept(JdkClient::checkStream))
            .collect(Collectors.toList());
        CompletableFuture.allOf(futures.toArray(new CompletableFuture[0])).get();
        HttpRequest large = post(url + "/v1/chat/completions", " ".repeat(17 << 20)).build();
        check(client.send(large, BodyHandlers.ofString()), 413);
        checkWhole(client.send(chat(url, ""), BodyHandlers.ofString()));
        System.out.println("46 requests answered");
    }

    private static HttpRequest chat(String url, String fields) {
        return post(url + "/v1/chat/completions", String.format(CHAT, fields)).build();
    }

    private static HttpRequest.Builder post(String url, String content) {
        return HttpRequest.newBuilder(URI.create(url))
            .header("Content-Type", "application/json")
            .POST(HttpRequest.BodyPublishers.ofString(content));
    }

    private static HttpRequest get(String url) {
        return HttpRequest.newBuilder(URI.create(url + "/v1/models")).build();
    }

    private static void checkWhole(HttpResponse<String> response) {
        check(response, 200);
        require(response.body().contains("\"chat.completion\""), response.body());
    }

    private static void checkStream(HttpResponse<java.util.stream.Stream<String>> response) {
        check(response, 200);
        List<String> lines = response.body().filter(line -> !line.isEmpty()).collect(Collectors.toList());
        require(lines.size() > 2 && lines.get(lines.size() - 1).equals("data: [DONE]"), lines.toString());
    }

    private static void check(HttpResponse<?> response, int status) {
        require(response.statusCode() == status, response.statusCode() + " instead of " + status);
        require(response.version() == HttpClient.Version.HTTP_1_1, response.version().toString());
    }

    private static void require(boolean condition, String message) {
        if (!condition) {
            throw new AssertionError(message);
        }
    }
}
