// Prints the subjects of a user's newest mails: java -cp gson.jar First.java CONNECTION
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.HexFormat;
import java.util.regex.Pattern;

class First {
    static final String TOKENWARD = System.getenv().getOrDefault("TOKENWARD_URL", "http://127.0.0.1:7070");
    static final String GRAPH = System.getenv().getOrDefault("GRAPH_URL", "https://graph.microsoft.com");
    static final Pattern CLAIMS = Pattern.compile("claims=\"([^\"]+)\"");
    static final HttpClient CLIENT = HttpClient.newHttpClient();

    static HttpResponse<String> call(String url, String bearer, JsonObject body) throws Exception {
        var request = HttpRequest.newBuilder(URI.create(url)).timeout(Duration.ofSeconds(20))
            .header("Authorization", "Bearer " + bearer).header("Content-Type", "application/json");
        if (body != null) request.POST(BodyPublishers.ofString(body.toString()));
        return CLIENT.send(request.build(), BodyHandlers.ofString());
    }

    /** An access token that works now; `report` says which one Graph refused. */
    static String token(String connection, JsonObject report) throws Exception {
        var name = URLEncoder.encode(connection, "UTF-8");
        var url = TOKENWARD + "/v1/apps/outlook/connections/" + name + "/token?connect=1";
        for (int left = 4;; left--) {
            // Read anew: it may have been replaced.
            var key = Files.readString(Path.of(System.getenv("TOKENWARD_KEY_FILE"))).strip();
            var answer = call(url, key, report);
            var body = JsonParser.parseString(answer.body()).getAsJsonObject();
            if (answer.statusCode() == 200) return body.get("access_token").getAsString();
            if (answer.statusCode() != 429 && answer.statusCode() != 503 || left == 0) {
                var next = body.has("connect_url") ? body.get("connect_url") : body.get("hint");
                throw new Exception(body.get("code") + ": " + body.get("detail") + "; " + next);
            }
            // Nothing is wrong with the connection.
            Thread.sleep(1000 * answer.headers().firstValueAsLong("Retry-After").orElse(1));
        }
    }

    static String messages(String connection) throws Exception {
        var url = GRAPH + "/v1.0/me/messages?$select=subject&$top=5";
        var bearer = token(connection, null);
        var answer = call(url, bearer, null);
        if (answer.statusCode() == 401) { // revoked before its time: report it once, and use the token that comes
            var digest = MessageDigest.getInstance("SHA-256").digest(bearer.getBytes());
            var report = new JsonObject();
            report.addProperty("rejected", HexFormat.of().formatHex(digest));
            var claims = CLAIMS.matcher(answer.headers().firstValue("WWW-Authenticate").orElse(""));
            if (claims.find()) report.addProperty("claims", claims.group(1));
            answer = call(url, token(connection, report), null);
        }
        if (answer.statusCode() != 200) throw new Exception("Microsoft Graph answers " + answer.statusCode());
        return answer.body();
    }

    public static void main(String[] arguments) {
        if (arguments.length != 1 || System.getenv("TOKENWARD_KEY_FILE") == null) {
            System.err.println("usage: TOKENWARD_KEY_FILE=FILE java -cp gson.jar First.java CONNECTION");
            System.exit(2);
        }
        try {
            var page = JsonParser.parseString(messages(arguments[0])).getAsJsonObject();
            for (var message : page.getAsJsonArray("value")) {
                System.out.println(message.getAsJsonObject().get("subject").getAsString());
            }
        } catch (Exception error) {
            System.err.println(error.getMessage());
            System.exit(1);
        }
    }
}
