// Answer queries about metrics, with Prometheus' own parser, store and engine.
//
// Read {"scrapes": [{"at": seconds, "type": media type, "text": ...}], "queries": [...]} from stdin, store each scrape as a
// server would, and write the answer of each query at the last scrape as a list of {"metric": labels, "value": number}.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/tsdb"
)

type scrape struct {
	At   float64 `json:"at"`
	Type string  `json:"type"`
	Text string  `json:"text"`
}

type series struct {
	Metric map[string]string `json:"metric"`
	Value  float64           `json:"value"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	var asked struct {
		Scrapes []scrape `json:"scrapes"`
		Queries []string `json:"queries"`
	}
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "promql")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	store, err := tsdb.Open(folder, nil, nil, tsdb.DefaultOptions(), nil)
	if err != nil {
		return err
	}
	defer store.Close()
	var last time.Time
	for _, one := range asked.Scrapes {
		last = time.UnixMilli(int64(one.At * 1000))
		if err := add(store, one, last); err != nil {
			return fmt.Errorf("scrape at %v: %w", one.At, err)
		}
	}
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1_000_000, Timeout: time.Minute})
	answers := [][]series{}
	for _, text := range asked.Queries {
		query, err := engine.NewInstantQuery(context.Background(), store, nil, text, last)
		if err != nil {
			return err
		}
		result := query.Exec(context.Background())
		vector, err := result.Vector()
		if err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
		answer := []series{}
		for _, sample := range vector {
			answer = append(answer, series{sample.Metric.Map(), sample.F})
		}
		answers = append(answers, answer)
	}
	return json.NewEncoder(os.Stdout).Encode(answers)
}

func add(store *tsdb.DB, one scrape, at time.Time) error {
	parser, err := textparse.New([]byte(one.Text), one.Type, labels.NewSymbolTable(), textparse.ParserOptions{})
	if err != nil {
		return err
	}
	appender := store.Appender(context.Background())
	for {
		entry, err := parser.Next()
		if errors.Is(err, io.EOF) {
			return appender.Commit()
		}
		if err != nil {
			return err
		}
		if entry != textparse.EntrySeries {
			continue
		}
		_, _, value := parser.Series()
		var names labels.Labels
		parser.Labels(&names)
		if _, err := appender.Append(0, names, at.UnixMilli(), value); err != nil {
			return err
		}
	}
}
