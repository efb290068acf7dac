// Prints the subjects of a user's newest mails: go run first.go CONNECTION
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"time"
)

var (
	client = http.Client{Timeout: 20 * time.Second}
	claims = regexp.MustCompile(`claims="([^"]+)"`)
)

func call(address, bearer string, body map[string]string) (int, http.Header, []byte, error) {
	request, err := http.NewRequest("GET", address, nil)
	if err == nil && body != nil {
		text, _ := json.Marshal(body) // of strings alone
		request, err = http.NewRequest("POST", address, bytes.NewReader(text))
	}
	if err != nil {
		return 0, nil, nil, err
	}
	request.Header.Set("Authorization", "Bearer "+bearer)
	request.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(request)
	if err != nil {
		return 0, nil, nil, err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	return answer.StatusCode, answer.Header, content, err
}

// An access token that works now; report says which one Graph refused.
func token(connection string, report map[string]string) (string, error) {
	address := env("TOKENWARD_URL", "http://127.0.0.1:7070") + "/v1/apps/outlook/connections/" +
		url.PathEscape(connection) + "/token?connect=1"
	for left := 4; ; left-- {
		key, err := os.ReadFile(os.Getenv("TOKENWARD_KEY_FILE")) // read anew: it may have been replaced
		if err != nil {
			return "", err
		}
		status, header, content, err := call(address, string(bytes.TrimSpace(key)), report)
		if err != nil {
			return "", err
		}
		var answer struct {
			Token  string `json:"access_token"`
			Link   string `json:"connect_url"`
			Code   string
			Detail string
			Hint   string
		}
		if err := json.Unmarshal(content, &answer); err != nil {
			return "", err
		}
		if status == 200 {
			return answer.Token, nil
		}
		if (status != 429 && status != 503) || left == 0 {
			return "", fmt.Errorf("%s: %s; %s %s", answer.Code, answer.Detail, answer.Hint, answer.Link)
		}
		seconds, _ := strconv.Atoi(header.Get("Retry-After")) // nothing is wrong with the connection
		time.Sleep(time.Duration(seconds) * time.Second)
	}
}

func subjects(connection string) ([]string, error) {
	address := env("GRAPH_URL", "https://graph.microsoft.com") + "/v1.0/me/messages?$select=subject&$top=5"
	bearer, err := token(connection, nil)
	if err != nil {
		return nil, err
	}
	status, header, content, err := call(address, bearer, nil)
	if err == nil && status == 401 { // revoked before its time: report it once, and use the token that comes
		report := map[string]string{"rejected": fmt.Sprintf("%x", sha256.Sum256([]byte(bearer)))}
		if found := claims.FindStringSubmatch(header.Get("WWW-Authenticate")); found != nil {
			report["claims"] = found[1]
		}
		if bearer, err = token(connection, report); err == nil {
			status, _, content, err = call(address, bearer, nil)
		}
	}
	if err != nil {
		return nil, err
	}
	if status != 200 {
		return nil, fmt.Errorf("Microsoft Graph answers %d", status)
	}
	var page struct{ Value []struct{ Subject string } }
	err = json.Unmarshal(content, &page)
	var found []string
	for _, message := range page.Value {
		found = append(found, message.Subject)
	}
	return found, err
}

func env(name, otherwise string) string {
	if value, is := os.LookupEnv(name); is {
		return value
	}
	return otherwise
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: TOKENWARD_KEY_FILE=FILE go run first.go CONNECTION")
		os.Exit(2)
	}
	found, err := subjects(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for _, subject := range found {
		fmt.Println(subject)
	}
}
