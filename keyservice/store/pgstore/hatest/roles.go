package hatest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Roles are who is what in a set, as Patroni and PostgreSQL agree on it.
type Roles struct {
	Primary *Machine
	Standby *Machine // the synchronous one
	Other   *Machine // the asynchronous one

	Timeline int // of the primary; every promotion begins another
}

// patroni asks Patroni; a connection that was kept might be to a machine that is cut off.
var patroni = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

var errNotYet = errors.New("not yet")

// Whole waits until the set is whole: one primary, to which both others stream, one of them synchronously.
func (s *Set) Whole(limit time.Duration) error {
	_, err := s.Roles(limit)
	return err
}

// Roles waits until the set is whole and returns who is what.
func (s *Set) Roles(limit time.Duration) (roles Roles, err error) {
	err = until(limit, func(ctx context.Context) error {
		roles, err = s.roles(ctx)
		return err
	})
	if err != nil {
		err = fmt.Errorf("hatest: the set is not whole: %w", err)
	}
	return roles, err
}

// until asks again and again until there is no error or time is up, and returns the last error.
func until(limit time.Duration, ask func(context.Context) error) error {
	late := time.After(limit)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), askLimit)
		err := ask(ctx)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-late:
			return err
		case <-time.After(askAgain):
		}
	}
}

func (s *Set) roles(ctx context.Context) (r Roles, err error) {
	for _, m := range s.Machines {
		named, err := m.namedRoles(ctx)
		if err != nil {
			return r, err
		}
		switch named[m.Name] {
		case "leader":
			r.Primary = m
		case "sync_standby":
			r.Standby = m
		case "replica":
			r.Other = m
		default:
			return r, fmt.Errorf("%w: %s has the role %q", errNotYet, m.Name, named[m.Name])
		}
	}
	if r.Primary == nil || r.Standby == nil || r.Other == nil {
		return r, fmt.Errorf("%w: there is not one of each role", errNotYet)
	}
	r.Timeline, err = r.replicates(ctx)
	return r, err
}

// namedRoles asks the machine's Patroni for the roles of the members that run.
func (m *Machine) namedRoles(ctx context.Context) (map[string]string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.Address(Servers)+":8008/cluster", nil)
	if err != nil {
		return nil, fmt.Errorf("hatest: %w", err)
	}
	answer, err := patroni.Do(request)
	if err != nil {
		return nil, fmt.Errorf("hatest: %w", err)
	}
	defer answer.Body.Close()
	var cluster struct {
		Members []struct{ Name, Role, State string }
	}
	if err := json.NewDecoder(answer.Body).Decode(&cluster); err != nil {
		return nil, fmt.Errorf("hatest: %w", err)
	}
	roles := map[string]string{}
	for _, member := range cluster.Members {
		if member.State == "running" || member.State == "streaming" {
			roles[member.Name] = member.Role
		}
	}
	return roles, nil
}

const streamingQuery = `SELECT count(*) = 2 AND count(*) FILTER (WHERE application_name = $1 AND sync_state = 'sync') = 1
	AND NOT pg_is_in_recovery() FROM pg_stat_replication WHERE state = 'streaming'`

const timelineQuery = `SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int`

// replicates asks the primary's PostgreSQL whether both standbys stream, and the one that Patroni named synchronously.
func (r Roles) replicates(ctx context.Context) (timeline int, err error) {
	conn, err := r.Primary.connect(ctx, superuser)
	if err != nil {
		return 0, fmt.Errorf("hatest: %w", err)
	}
	defer conn.Close(ctx)
	var whole bool
	if err := conn.QueryRow(ctx, streamingQuery, r.Standby.Name).Scan(&whole); err != nil {
		return 0, fmt.Errorf("hatest: %w", err)
	}
	if !whole {
		return 0, fmt.Errorf("%w: the standbys do not stream", errNotYet)
	}
	if err := conn.QueryRow(ctx, timelineQuery).Scan(&timeline); err != nil {
		return 0, fmt.Errorf("hatest: %w", err)
	}
	return timeline, nil
}
