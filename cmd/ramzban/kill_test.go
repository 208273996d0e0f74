package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/client"
	"ramzban/api/wire"
)

// bank is a load on the service, and what the service acknowledged meanwhile. Everything is remembered over restarts.
type bank struct {
	*service
	cards int // numbers given out so far; guarded by mu
	mu    sync.Mutex

	customers []*account        // those whose passwords are verified again and again
	tokens    map[string]string // serial → the last acknowledged status
	accepted  []acceptance      // every password that was answered accepted
}

// account is a customer with the passwords that were answered accepted, oldest first. One worker at a time uses it.
type account struct {
	customer
	used []string
}

// acceptance is one answer "accepted".
type acceptance struct {
	serial string
	index  uint64
}

func newBank(s *service) *bank { return &bank{service: s, tokens: map[string]string{}} }

func (b *bank) nextCard() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cards++
	return testCard(b.cards)
}

func (b *bank) acknowledge(serial, status string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tokens[serial] = status
}

// open enrols one more customer who verifies again and again, with a counter token.
func (b *bank) open(ctx context.Context) error {
	c, err := b.enrol(ctx, "counter-6", b.nextCard())
	if err != nil {
		return err
	}
	b.acknowledge(c.serial, "active")
	b.mu.Lock()
	defer b.mu.Unlock()
	b.customers = append(b.customers, &account{customer: c})
	return nil
}

// load works until ctx ends or the service stops answering: every customer verifies, newcomers enrol.
func (b *bank) load(ctx context.Context, newcomers int) {
	var workers sync.WaitGroup
	for _, a := range b.customers {
		workers.Go(func() {
			for ctx.Err() == nil && b.verifyOnce(ctx, a) == nil {
			}
		})
	}
	for range newcomers {
		workers.Go(func() {
			for ctx.Err() == nil && b.newcomer(ctx) == nil {
			}
		})
	}
	workers.Wait()
}

func (b *bank) verifyOnce(ctx context.Context, a *account) error {
	password := a.password(b.t)
	answer, err := b.verify(ctx, a.serial, password)
	if err != nil {
		return err
	}
	if answer.Result != "accepted" {
		return fmt.Errorf("refused: %s", answer.Reason)
	}
	a.used = append(a.used, password)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.accepted = append(b.accepted, acceptance{serial: a.serial, index: answer.Audit.Index})
	return nil
}

// newcomer issues and activates a timed token, and notes each step as it is acknowledged.
func (b *bank) newcomer(ctx context.Context) error {
	card := b.nextCard()
	issued, err := b.as("branch").Issue(ctx, wire.IssueRequest{
		Class: "card", Subject: card, Channel: "app", Profile: "offline-60", Uses: []string{testUse}})
	if err != nil {
		return err
	}
	b.acknowledge(issued.Serial, "issued")
	c, err := b.activate(ctx, issued, card)
	if err != nil {
		return err
	}
	b.acknowledge(c.serial, "active")
	a := &account{customer: c}
	if err := b.verifyOnce(ctx, a); err != nil {
		return err
	}
	return nil
}

func (b *bank) acceptances() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.accepted)
}

// killedUnderLoad kills the service at a random moment of a load in which every customer was accepted: so none is owed a delay
// for the used passwords that check sends.
func (b *bank) killedUnderLoad(ctx context.Context, newcomers int) {
	b.t.Helper()
	before, loaded := b.acceptances(), make(chan struct{})
	go func() { b.load(ctx, newcomers); close(loaded) }()
	require.Eventually(b.t, func() bool { return b.eachAcceptedSince(before) }, startLimit, 5*time.Millisecond)
	killed := time.After(time.Duration(rand.IntN(700)) * time.Millisecond)
	<-killed
	b.kill()
	<-loaded
}

// eachAcceptedSince says whether every customer was accepted after the first acceptances.
func (b *bank) eachAcceptedSince(first int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	seen := map[string]bool{}
	for _, a := range b.accepted[first:] {
		seen[a.serial] = true
	}
	return !slices.ContainsFunc(b.customers, func(a *account) bool { return !seen[a.serial] })
}

// check holds the service to everything it acknowledged.
func (b *bank) check(ctx context.Context) {
	b.t.Helper()
	for serial, status := range b.tokens {
		token, err := b.as("branch").Token(ctx, serial)
		require.NoError(b.t, err, "an acknowledged token is gone")
		if status == "active" {
			require.Equal(b.t, "active", token.Status)
		}
	}
	for _, a := range b.customers {
		b.replay(ctx, a)
	}
	entries := b.auditLog(ctx)
	for _, a := range b.accepted {
		require.Less(b.t, a.index, uint64(len(entries)), "an acknowledged entry is gone")
		e := entries[a.index]
		require.Equal(b.t, []string{a.serial, "otp.verify", "accepted"}, []string{e.Serial, e.Action, e.Outcome})
	}
}

// replay sends the last two accepted passwords again: each must be looked at, and refused.
func (b *bank) replay(ctx context.Context, a *account) {
	b.t.Helper()
	for i := len(a.used) - 1; i >= max(0, len(a.used)-2); i-- {
		answer, err := b.verify(ctx, a.serial, a.used[i])
		require.NoError(b.t, err)
		require.Equal(b.t, "refused", answer.Result, "a password was accepted twice")
		require.Contains(b.t, []string{"already_used", "mismatch"}, answer.Reason)
	}
}

// auditLog reads all of it; its indexes must be dense. Reading is logged too, so the end is a page that is not full.
func (b *bank) auditLog(ctx context.Context) []wire.AuditEntry {
	b.t.Helper()
	const limit = 500
	var all []wire.AuditEntry
	for {
		page, err := b.as("auditor").AuditEntries(ctx, client.AuditQuery{From: uint64(len(all)), Limit: limit})
		require.NoError(b.t, err)
		for _, e := range page.Entries {
			require.Equal(b.t, uint64(len(all)), e.Index, "the indexes are not dense")
			all = append(all, e)
		}
		if len(page.Entries) < limit {
			return all
		}
	}
}

// 30 times, and 3 in the short form: killed under load, the service neither forgets what it acknowledged nor accepts a
// password again.
func TestKilledUnderLoadNothingAcknowledgedIsLost(t *testing.T) {
	rounds := 3
	if longTests() {
		rounds = 30
	}
	b := newBank(startService(t))
	for range 12 {
		require.NoError(t, b.open(t.Context()))
	}
	for range rounds {
		b.killedUnderLoad(t.Context(), 4)
		b.start()
		b.check(t.Context())
	}
	t.Logf("%d rounds, %d tokens, %d accepted passwords", rounds, len(b.tokens), len(b.accepted))
}

// Every password that the audit log says was accepted was also answered so: nobody waits in vain when the service ends.
func TestGracefulShutdownUnderLoadLosesNothing(t *testing.T) {
	b := newBank(startService(t))
	for range 12 {
		require.NoError(t, b.open(t.Context()))
	}
	loaded := make(chan struct{})
	go func() { b.load(t.Context(), 2); close(loaded) }()
	require.Eventually(t, func() bool { return b.acceptances() > 200 }, startLimit, 5*time.Millisecond)
	require.NoError(t, b.terminate(), "%s", b.output())
	<-loaded

	b.start()
	b.check(t.Context())
	answered := map[uint64]bool{}
	for _, a := range b.accepted {
		answered[a.index] = true
	}
	for _, e := range b.auditLog(t.Context()) {
		if e.Outcome == "accepted" {
			require.True(t, answered[e.Index], "entry %d was decided, but nobody was told", e.Index)
		}
	}
	require.NoError(t, b.terminate())
}
