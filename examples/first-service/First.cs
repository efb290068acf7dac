// Prints the subjects of a user's newest mails: First CONNECTION
using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Net.Http;
using System.Net.Http.Headers;
using System.Runtime.Serialization.Json;
using System.Security.Cryptography;
using System.Text;
using System.Text.RegularExpressions;
using System.Threading.Tasks;
using System.Xml;
using System.Xml.Linq;

static class First
{
    static readonly HttpClient Client = new HttpClient { Timeout = TimeSpan.FromSeconds(20) };

    static async Task<HttpResponseMessage> Call(string url, string bearer, string report = null)
    {
        var request = new HttpRequestMessage(report == null ? HttpMethod.Get : HttpMethod.Post, url);
        request.Headers.Authorization = new AuthenticationHeaderValue("Bearer", bearer);
        if (report != null) request.Content = new StringContent(report, Encoding.UTF8, "application/json");
        return await Client.SendAsync(request);
    }

    // JSON as elements, with what every .NET has.
    static async Task<XElement> Json(HttpResponseMessage answer)
    {
        var bytes = await answer.Content.ReadAsByteArrayAsync();
        return XElement.Load(JsonReaderWriterFactory.CreateJsonReader(bytes, XmlDictionaryReaderQuotas.Max));
    }

    // An access token that works now; `report` says which one Graph refused.
    static async Task<string> Token(string connection, string report = null)
    {
        var name = Uri.EscapeDataString(connection);
        var url = Env("TOKENWARD_URL", "http://127.0.0.1:7070")
            + "/v1/apps/outlook/connections/" + name + "/token?connect=1";
        for (var left = 4; ; left--)
        {
            var key = File.ReadAllText(Env("TOKENWARD_KEY_FILE", "")).Trim(); // read anew: it may have been replaced
            var answer = await Call(url, key, report);
            var body = await Json(answer);
            if (answer.IsSuccessStatusCode) return (string)body.Element("access_token");
            var status = (int)answer.StatusCode;
            if (status != 429 && status != 503 || left == 0)
                throw new Exception($"{(string)body.Element("code")}: {(string)body.Element("detail")}; "
                    + (string)(body.Element("connect_url") ?? body.Element("hint")));
            await Task.Delay(answer.Headers.RetryAfter.Delta.Value); // nothing is wrong with the connection
        }
    }

    static async Task<IEnumerable<string>> Subjects(string connection)
    {
        var url = Env("GRAPH_URL", "https://graph.microsoft.com") + "/v1.0/me/messages?$select=subject&$top=5";
        var bearer = await Token(connection);
        var answer = await Call(url, bearer);
        if ((int)answer.StatusCode == 401) // revoked before its time: report it once, and use the token that comes
        {
            var digest = SHA256.Create().ComputeHash(Encoding.ASCII.GetBytes(bearer));
            var rejected = BitConverter.ToString(digest).Replace("-", "").ToLowerInvariant();
            var claims = Regex.Match(answer.Headers.WwwAuthenticate.ToString(), "claims=\"([^\"]+)\"").Groups[1];
            var more = claims.Success ? $", \"claims\": \"{claims.Value}\"" : "";
            answer = await Call(url, await Token(connection, $"{{\"rejected\": \"{rejected}\"{more}}}"));
        }
        if (!answer.IsSuccessStatusCode) throw new Exception($"Microsoft Graph answers {(int)answer.StatusCode}");
        return (await Json(answer)).Element("value").Elements().Select(message => (string)message.Element("subject"));
    }

    static string Env(string name, string otherwise) => Environment.GetEnvironmentVariable(name) ?? otherwise;

    static int Main(string[] arguments)
    {
        if (arguments.Length != 1)
        {
            Console.Error.WriteLine("usage: TOKENWARD_KEY_FILE=FILE First CONNECTION");
            return 2;
        }
        try
        {
            var subjects = Subjects(arguments[0]).GetAwaiter().GetResult();
            foreach (var subject in subjects) Console.WriteLine(subject);
            return 0;
        }
        catch (Exception error)
        {
            Console.Error.WriteLine(error.Message);
            return 1;
        }
    }
}
