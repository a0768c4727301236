import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.SQLException;

/**
 * Writes orders, each with its event in the same transaction: both are committed, or neither.
 *
 * <p>java -cp postgresql.jar Producer.java, with JDBC_URL=jdbc:postgresql://host/database?user=…
 */
public class Producer {
    private static final String ORDER = "INSERT INTO orders (id) VALUES (?)";
    private static final String EVENT = "SELECT pgoutbox.enqueue(topic => 'order.paid', payload => ?::jsonb, "
        + "aggregate_type => 'order', aggregate_id => ?)";

    public static void main(String[] args) throws SQLException {
        long first = Long.parseLong(System.getenv().getOrDefault("FIRST", "1"));
        long count = Long.parseLong(System.getenv().getOrDefault("COUNT", "20"));
        try (Connection db = DriverManager.getConnection(System.getenv("JDBC_URL"))) {
            db.setAutoCommit(false);
            for (long order = first; order < first + count; order++) {
                try (PreparedStatement row = db.prepareStatement(ORDER);
                     PreparedStatement event = db.prepareStatement(EVENT)) {
                    row.setLong(1, order);
                    row.executeUpdate();
                    event.setString(1, "{\"order\": " + order + ", \"step\": 1}");
                    event.setString(2, Long.toString(order));
                    event.execute();
                    db.commit();
                } catch (SQLException error) {
                    db.rollback();
                    throw error;
                }
            }
        }
    }
}
