package pgtest

import (
	"context"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { os.Exit(Run(m)) }

func TestDatabasesAreSeparate(t *testing.T) {
	ctx := context.Background()
	for _, dsn := range []string{Database(t), Database(t)} {
		conn, err := pgx.Connect(ctx, dsn)
		require.NoError(t, err)
		_, err = conn.Exec(ctx, "CREATE TABLE mine ()")
		require.NoError(t, err)
		require.NoError(t, conn.Close(ctx))
	}
}

func TestServerComesBackAfterKill(t *testing.T) {
	s := Start(t, "work_mem = '5MB'")
	s.Exec(t, "CREATE TABLE kept AS SELECT current_setting('work_mem') AS it")
	require.NoError(t, s.Kill())
	require.NoError(t, s.Start())
	conn, err := pgx.Connect(context.Background(), s.DSN("postgres"))
	require.NoError(t, err)
	defer conn.Close(context.Background())
	var kept, fsync string
	require.NoError(t, conn.QueryRow(context.Background(), "SELECT it, current_setting('fsync') FROM kept").Scan(&kept, &fsync))
	require.Equal(t, "5MB on", kept+" "+fsync)
}
